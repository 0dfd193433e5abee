"""What routing hears of alerts and incidents, and what it answers."""

from collections.abc import Iterable

from msgspec.structs import replace

from aiopsd.model import Audit, Notify, NotifyReason
from aiopsd.pipeline.correlate.ledger import Ledger
from aiopsd.routing import Dispatcher


class Pages:
    """Tells the dispatcher the newest rows, after they are written, and writes down what it decides."""

    def __init__(self, ledger: Ledger, dispatcher: Dispatcher) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._news: dict[str, None] = {}  # alerts that routing has not heard of yet: told once a record
        self._reopened: dict[str, None] = {}

    def news(self, fingerprint: str) -> None:
        """Routing will hear of this alert at the end of the record."""
        self._news[fingerprint] = None

    def reopened(self, incident_id: str) -> None:
        """Routing will hear at the end of the record that it fires again."""
        self._reopened[incident_id] = None

    def publish(self) -> None:
        """Write down what changed, and let routing hear of it: once a record, however many alerts it had."""
        self._ledger.flush()
        news, self._news = self._news, {}
        self._alerts(news)
        reopened, self._reopened = self._reopened, {}
        for incident_id in reopened:
            self.tell(incident_id, NotifyReason.REOPENED)

    def regrouped(self, fingerprints: Iterable[str]) -> None:
        """These alerts belong to another incident now."""
        self._ledger.flush()
        self._alerts(fingerprints)

    def _alerts(self, fingerprints: Iterable[str]) -> None:
        ledger = self._ledger
        for fp in fingerprints:
            if (alert := ledger.alerts.get(fp)) is not None:
                self._dispatcher.alert(alert, ledger.incidents.get(alert.incident), ledger.now)

    def tell(self, incident_id: str, reason: NotifyReason | None = None) -> None:
        """Routing hears of the incident's newest state; it may hand back another dedup_key after a merge."""
        ledger = self._ledger
        ledger.flush()
        incident = ledger.incidents.get(incident_id)
        if incident is None:
            return
        key = self._dispatcher.incident(incident, ledger.now, reason)
        if key and key != incident.dedup_key:
            ledger.put(replace(incident, dedup_key=key))
            ledger.flush()

    def flush_next(self) -> None:
        """Write down what the earliest flush decides."""
        for effect in self._dispatcher.flush_next():
            if isinstance(effect, Audit) and effect.entry.offset < 0:
                effect = Audit(entry=replace(effect.entry, offset=self._ledger.offset))
            self._ledger.out.append(effect)
            if isinstance(effect, Notify):
                self._notified(effect)

    def _notified(self, effect: Notify) -> None:
        note, ledger = effect.notification, self._ledger
        if note.incident is None:
            return
        ledger.audit(note.incident.id, "notified", f"{note.action} to {note.destination}", reason=str(note.reason))
        incident = ledger.incidents.get(note.incident.id)
        if incident is not None and not incident.paged:
            ledger.put(replace(incident, paged=True))
            ledger.flush()
