"""Words of incidents that a person reads first."""

from typing import Any

from aiopsd.incidents import title
from aiopsd.model import Alert, Candidate, Evidence


def alert(**more: Any) -> Alert:
    given = {"fingerprint": "f", "starts_at": 0.0, "ends_at": 0.0, "updated_at": 0.0, "service": "db"}
    return Alert(**{**given, **more})


def test_an_anomaly_is_named_after_the_metric_that_left_its_range_furthest() -> None:
    """An incident of one anomaly says which metric and which way, not that it is an anomaly."""
    evidence = (
        Evidence(service="db", metric="cpu", level=0.6, direction="high", score=0.5),
        Evidence(service="db", metric="free_bytes", level=3.0, direction="low", score=0.9),
    )
    odd = alert(labels={"alertname": "AiopsdAnomaly"}, anomaly=True, evidence=evidence)

    assert title([odd], ("db",), None) == "free_bytes low on db"
    cause = Candidate(service="db", kind="service", score=1.0, confidence=0.9)
    assert title([odd], ("db", "web"), cause) == "db: free_bytes low, 1 more service affected"


def test_silence_and_standstill_are_named_so() -> None:
    """Who is paged for silence reads that there is no data, not which way the last sample of some metric leaned."""
    for channel, words in (("no-data", "no data"), ("flatline", "cpu does not move")):
        silent = Evidence(service="db", metric="cpu", channel=channel, direction="low")
        odd = alert(labels={"alertname": "AiopsdAnomaly"}, anomaly=True, evidence=(silent,))

        assert title([odd], ("db",), None) == f"{words} on db"


def test_an_alert_is_named_as_its_sender_names_it() -> None:
    """The alertname stands, whatever evidence hangs on it."""
    down = alert(labels={"alertname": "Down"}, evidence=(Evidence(service="db", metric="cpu", level=1.0),))

    assert title([down], ("db",), None) == "Down on db"
