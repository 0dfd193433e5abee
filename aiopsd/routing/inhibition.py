"""Which firing alerts keep which others quiet."""

from collections.abc import Mapping

from aiopsd.config import Config
from aiopsd.matchers import Matchers, conditions
from aiopsd.model import Labels


class _Rule:
    """One inhibit rule with its firing sources, by the values of its `equal` labels."""

    __slots__ = ("both", "equal", "only", "source", "target")

    def __init__(self, source: Matchers, target: Matchers, equal: tuple[str, ...]) -> None:
        self.source, self.target, self.equal = source, target, equal
        self.only: dict[tuple[str, ...], dict[str, None]] = {}  # sources that are no targets
        self.both: dict[tuple[str, ...], dict[str, None]] = {}  # two-sided ones: they inhibit only what is no source

    def _slot(self, labels: Mapping[str, str]) -> tuple[dict[tuple[str, ...], dict[str, None]], tuple[str, ...]]:
        return (self.both if self.target.matches(labels) else self.only), self._key(labels)

    def _key(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(labels.get(name, "") for name in self.equal)

    def add(self, fp: str, labels: Mapping[str, str]) -> None:
        if self.source.matches(labels):
            slots, key = self._slot(labels)
            slots.setdefault(key, {})[fp] = None

    def discard(self, fp: str, labels: Mapping[str, str]) -> None:
        slots, key = self._slot(labels)
        if fp in slots.get(key, ()):
            del slots[key][fp]
            if not slots[key]:
                del slots[key]

    def inhibitor(self, labels: Mapping[str, str]) -> str | None:
        """The oldest firing source that mutes this label set; an alert on both sides yields only to a pure source."""
        if not self.target.matches(labels):
            return None
        key = self._key(labels)
        if (found := next(iter(self.only.get(key, ())), None)) is not None:
            return found
        if key in self.both and not self.source.matches(labels):
            return next(iter(self.both[key]))
        return None


class Inhibitor:
    """All inhibit rules over the alerts that fire; every source counts, a missing label is an empty one."""

    def __init__(self, config: Config) -> None:
        self._rules = [
            _Rule(
                Matchers(conditions(rule, f"$.inhibit_rules[{i}]", "source_")),
                Matchers(conditions(rule, f"$.inhibit_rules[{i}]", "target_")),
                rule.equal,
            )
            for i, rule in enumerate(config.inhibit_rules)
        ]
        self.firing: dict[str, Labels] = {}

    def set(self, fp: str, labels: Labels | None) -> None:
        """This alert fires with these labels, or (None) does not fire."""
        if not self._rules or self.firing.get(fp) == labels:
            return
        if (old := self.firing.pop(fp, None)) is not None:
            for rule in self._rules:
                rule.discard(fp, old)
        if labels is not None:
            self.firing[fp] = labels
            for rule in self._rules:
                rule.add(fp, labels)

    def inhibited_by(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Fingerprints of sources, one for each rule that mutes this label set."""
        found = (rule.inhibitor(labels) for rule in self._rules)
        return tuple(dict.fromkeys(fp for fp in found if fp is not None))
