"""Laws of causes through the whole stage: neither the order within a second nor names decide who is blamed."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.model import Candidate
from simulations.storm import Homes, Player, play
from tests.property import strategies
from tests.property.strategies import Event

SERVICES = 8
ALERTNAMES = ("Slow", "Down", "Backlog")


EVENTS = strategies.events(services=SERVICES, names=len(ALERTNAMES), within=90, lead=40.0, least=2, most=14)
GRAPHS = strategies.graphs(services=SERVICES, most=16)


def forward(i: int) -> str:
    return f"s{i}"


def backward(i: int) -> str:
    """Names that sort the other way round."""
    return f"q{SERVICES - i}"


def blamed(
    events: Sequence[Event], edges: Sequence[tuple[int, int]], name: Callable[[int], str] = forward
) -> dict[frozenset[str], tuple[Candidate, ...]]:
    """Alerts of each incident -> its causes, at the end of the stream."""
    calls = [[name(a), name(b)] for a, b in edges]
    lines: list[dict[str, Any]] = [
        {"kind": "topology", "nodes": {name(i): {} for i in range(SERVICES)}, "edges": calls}
    ]
    for e in sorted(events, key=lambda e: e.second):  # stable: the order within a second is the order given
        what = {"kind": "alert", "t": 1000.0 + e.second, "ts": 1000.0 + e.second - e.lead, "state": "firing"}
        one = f"{e.content}/{e.service}/{e.name}"
        lines.append(what | {"id": one, "i": one, "service": name(e.service), "alertname": ALERTNAMES[e.name]})
    homes = Homes()
    player: Player = play([json.dumps(line) for line in lines], homes.take)
    members: dict[str, set[str]] = defaultdict(set)
    for one, incident in homes.all().items():
        members[incident].add(one)
    known = player.stage.incidents
    return {frozenset(ones): known[i].roots if i in known else () for i, ones in members.items()}


def around(edges: Sequence[tuple[int, int]], service: str) -> tuple[set[str], set[str]] | str:
    """Who calls it and whom it calls; its name where nobody does either."""
    callers = {forward(a) for a, b in edges if forward(b) == service}
    callees = {forward(b) for a, b in edges if forward(a) == service}
    return (callers, callees) if callers or callees else service


def said(roots: Sequence[Candidate]) -> list[tuple[str, float, float]]:
    return [(c.service, c.score, c.confidence) for c in roots]


@settings(max_examples=60, deadline=None)
@given(EVENTS, GRAPHS, st.randoms(use_true_random=False))
def test_the_order_within_a_second_does_not_change_the_causes(
    events: list[Event], edges: list[tuple[int, int]], chance: Any
) -> None:
    """Permuted arrival within the same second: the same incidents, and in each the same causes in the same order."""
    other = list(events)
    chance.shuffle(other)

    first, second = blamed(events, edges), blamed(other, edges)

    assert {k: said(v) for k, v in first.items()} == {k: said(v) for k, v in second.items()}


@settings(max_examples=60, deadline=None)
@given(EVENTS, GRAPHS)
def test_names_do_not_decide_who_is_blamed(events: list[Event], edges: list[tuple[int, int]]) -> None:
    """Services renamed one to one, in the other order: the same incidents, scores, and causes but for exact ties.

    Two that have the same callers and callees, and say nothing, tie before either is listed.
    """
    events = strategies.told_apart(events)
    mine, theirs = blamed(events, edges), blamed(events, edges, backward)
    again = {backward(i): forward(i) for i in range(SERVICES)}

    assert mine.keys() == theirs.keys()
    for alerts, roots in mine.items():
        others = theirs[alerts]
        assert [c.score for c in roots] == [c.score for c in others]
        scores = [c.score for c in roots]
        for a, b in zip(roots, others, strict=True):
            if scores.count(a.score) == 1 and a.score != scores[-1]:  # the last may tie with one that is not listed
                assert (a.kind, a.confidence) == (b.kind, b.confidence)
                assert around(edges, a.service) == around(edges, again.get(b.service, ""))
