"""Words of incidents that a person reads first."""

from typing import Any

from aiopsd.incidents import advice, speaker, title
from aiopsd.model import Alert, Candidate, ChangeEvent, Evidence


def alert(**more: Any) -> Alert:
    given = {"fingerprint": "f", "labels": {}, "starts_at": 0.0, "ends_at": 0.0, "updated_at": 0.0, "service": "db"}
    return Alert(**{**given, **more})


def test_an_anomaly_is_named_after_the_metric_that_left_its_range_furthest() -> None:
    """An incident of one anomaly says which metric and which way, not that it is an anomaly."""
    evidence = (
        Evidence(service="db", metric="cpu", level=0.6, direction="high", score=0.5),
        Evidence(service="db", metric="free_bytes", level=3.0, direction="low", score=0.9),
    )
    odd = alert(labels={"alertname": "AiopsdAnomaly"}, anomaly=True, evidence=evidence)

    assert title(odd, ("db",), None) == "free_bytes low on db"
    cause = Candidate(service="db", kind="service", score=1.0, confidence=0.9)
    assert title(odd, ("db", "web"), cause) == "db: free_bytes low, 1 more affected"


def test_silence_and_standstill_are_named_so() -> None:
    """Who is paged for silence reads that there is no data, not which way the last sample of some metric leaned."""
    for channel, words in (("no-data", "no data"), ("flatline", "cpu does not move")):
        silent = Evidence(service="db", metric="cpu", channel=channel, direction="low")
        odd = alert(labels={"alertname": "AiopsdAnomaly"}, anomaly=True, evidence=(silent,))

        assert title(odd, ("db",), None) == f"{words} on db"


def test_an_alert_is_named_as_its_sender_names_it() -> None:
    """The alertname stands, whatever evidence hangs on it."""
    down = alert(labels={"alertname": "Down"}, evidence=(Evidence(service="db", metric="cpu", level=1.0),))

    assert title(down, ("db",), None) == "Down on db"


def test_a_cause_is_named_with_what_it_shows_itself() -> None:
    """The first alert of the cause speaks, whoever was heard first."""
    slow = alert(labels={"alertname": "Slow"}, service="web")
    down = alert(labels={"alertname": "Down"})
    cause = Candidate(service="db", confidence=0.9)

    assert title(speaker([slow, down], cause), ("web", "db"), cause) == "db: Down, 1 more affected"


def test_a_rule_that_somebody_wrote_goes_before_a_metric() -> None:
    """Its name is known to who is paged; a metric speaks where there is no such alert of the cause."""
    evidence = (Evidence(service="db", metric="locks", direction="high", score=0.9),)
    cause = Candidate(service="db", metric="locks", evidence=evidence, confidence=0.9)
    odd = alert(labels={"alertname": "AiopsdAnomaly"}, anomaly=True, evidence=evidence)
    down = alert(labels={"alertname": "Down"})
    slow = alert(labels={"alertname": "Slow"}, service="web")

    assert title(speaker([slow, odd, down], cause), ("db", "web"), cause) == "db: Down, 1 more affected"
    assert title(speaker([slow, odd], cause), ("db", "web"), cause) == "db: locks high, 1 more affected"
    assert title(speaker([slow], cause), ("db", "web"), cause) == "db: locks high, 1 more affected"


def test_a_silent_cause_is_not_said_to_show_what_others_show() -> None:
    """What a provider or a zone does not say itself is said of whom it is seen at."""
    slow = alert(labels={"alertname": "Errors"}, service="payments")
    cause = Candidate(service="stripe", kind="external", confidence=0.9)

    told = title(speaker([slow], cause), ("payments", "billing"), cause)
    assert told == "stripe: Errors on payments, 1 more affected"


def test_a_change_stands_in_the_title() -> None:
    """Who reads one line on a phone reads that it began after a release."""
    change = ChangeEvent(id="c", service="db", kind="deploy", ts=0.0, version="v42")
    cause = Candidate(service="db", confidence=0.9, changes=(change,))

    assert title(alert(labels={"alertname": "Down"}), ("db",), cause) == "db: Down after deploy v42"


def test_advice_is_the_causes_own_where_there_is_some() -> None:
    """Somebody else's runbook is better than none, worse than the cause's, and never passed off as that."""
    theirs = alert(service="web", annotations={"runbook_url": "https://r/web"})
    own = alert(annotations={"runbook": "https://r/db"})
    cause = Candidate(service="db")

    assert advice([theirs, own], cause, "runbook") == ("https://r/db", "")
    assert advice([theirs], cause, "runbook") == ("https://r/web", "web")
    assert advice([theirs], None, "runbook") == ("https://r/web", "")
    assert advice([], cause, "runbook") == ("", "")
