"""The storm scorecard: answers come line by line, and only from what a monitoring system sends."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulations import storm

TOPOLOGY = {
    "kind": "topology",
    "nodes": {
        "web": {"kind": "edge"},
        "cart": {},
        "db": {"kind": "store"},
        "h1": {"kind": "host"},
        "z1": {"kind": "zone"},
    },
    "edges": [["web", "cart"], ["cart", "db"]],
}


def line(t: float, number: int, service: str, state: str = "firing", name: str = "Slow", **more: Any) -> dict[str, Any]:
    return {
        "kind": "alert",
        "t": t,
        "ts": t - 1,
        "id": number,
        "service": service,
        "alertname": name,
        "severity": "warning",
        "state": state,
        "cluster": "c",
        "_gt": {"incident": None},
        **more,
    }


def played(*lines: dict[str, Any]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    storm.play([json.dumps(x) for x in lines], out.append)
    return out


def homes(answers: list[dict[str, Any]]) -> dict[Any, str]:
    """Incident of each line: the last word, merges followed."""
    found = storm.Homes()
    for a in answers:
        found.take(a)
    return found.all()


def test_a_climbing_fault_is_one_incident_with_its_root() -> None:
    """Every firing line is assigned, all to one incident, whose first root is the callee."""
    answers = played(TOPOLOGY, line(1000, 1, "db", name="Down"), line(1020, 2, "cart"), line(1045, 3, "web"))

    assert set(homes(answers)) == {0, 1, 2}
    (home,) = set(homes(answers).values())
    said = [a for a in answers if a["kind"] == "incident" and a["incident"] == home]
    assert said[-1]["roots"][0] == "db"
    assert said[-1]["opened"] == 1000


def test_lines_are_numbered_by_themselves_or_by_order() -> None:
    """`i` of the line when it has one, else its number among all alert lines, ends included."""
    answers = played(TOPOLOGY, line(1000, 1, "db"), line(1100, 1, "db", "resolved"), line(9000, 2, "web", i=77))

    assert set(homes(answers)) == {0, 77}


def test_a_resent_line_stays_where_it_is() -> None:
    """The same id again, still firing, is assigned to the same incident."""
    answers = played(TOPOLOGY, line(1000, 1, "db"), line(1060, 1, "db", ts=999))

    assert homes(answers)[0] == homes(answers)[1]


def test_alerts_without_a_service_are_placed_by_their_labels() -> None:
    """A host's alert and what runs on it by label belong together; nothing is left unassigned."""
    answers = played(
        TOPOLOGY,
        line(1000, 1, "", name="HostDown", node="h1", zone="z1"),
        line(1010, 2, "cart", node="h1"),
        line(1015, 3, "web", node="h1"),
    )

    assert len(set(homes(answers).values())) == 1
    assert len(homes(answers)) == 3


def test_each_answer_is_out_before_the_next_line_is_read() -> None:
    """When the second alert is asked for, the first one's answer has been written."""
    out: list[dict[str, Any]] = []
    before: list[int] = []

    def lines() -> Iterator[str]:
        for x in (TOPOLOGY, line(1000, 1, "db"), line(1020, 2, "cart"), line(5000, 3, "web")):
            before.append(sum(a["kind"] == "assign" for a in out))
            yield json.dumps(x)

    storm.play(lines(), out.append)

    assert before[:4] == [0, 0, 1, 2]


def test_a_stream_may_begin_at_any_hour() -> None:
    """Times since 1970 or since the start of the stream: the topology holds for all of it."""
    parts = []
    for zero in (0.0, 1_764_000_000.0):
        given = [(zero, 1, "db"), (zero + 20, 2, "cart"), (zero + 40, 3, "web")]
        given += [(zero + 400_000.0 + 20 * k, 4 + k, service) for k, service in enumerate(("db", "cart", "web"))]
        found = homes(played(TOPOLOGY, *(line(*x) for x in given)))
        parts.append([found[0] == found[1] == found[2], found[3] == found[4] == found[5], found[0] == found[3]])

    assert parts == [[True, True, False]] * 2


def test_truth_in_the_stream_changes_nothing() -> None:
    """Lines of truth and underscored keys are not looked at."""
    plain = played(TOPOLOGY, line(1000, 1, "db"), line(1020, 2, "cart"))
    told = played(
        TOPOLOGY,
        {"kind": "truth", "incident": 0, "root": "cart"},
        line(1000, 1, "db", _gt={"incident": 5}),
        line(1020, 2, "cart", _gt={"incident": 6}),
    )

    assert plain == told


def test_files_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and standard streams give the same answer; an unreadable stream is exit code 2."""
    stream, answer = tmp_path / "s.jsonl", tmp_path / "a.jsonl"
    text = "\n".join(json.dumps(x) for x in (TOPOLOGY, line(1000, 1, "db"), line(1020, 2, "cart"))) + "\n"
    stream.write_text(text)

    assert storm.main(["--stream", str(stream), "--answer", str(answer)]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert storm.main(["--stream", "-", "--answer", "-"]) == 0
    assert capsys.readouterr().out == answer.read_text()
    assert storm.main(["--stream", str(tmp_path / "none"), "--answer", "-"]) == 2


def test_a_broken_line_is_named() -> None:
    """The number of the line is in the error."""
    with pytest.raises(ValueError, match="line 2"):
        storm.play([json.dumps(TOPOLOGY), '{"kind": "alert"}'], lambda _: None)
