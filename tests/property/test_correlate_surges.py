"""Laws of grouping where load runs down: many callees of one entry fall within a minute."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property import strategies
from tests.property.strategies import Event
from tests.property.test_correlate_grouping import play

CALLEES = 9
OTHERS = "".join(f" x{k}>y{k}" for k in range(60))
EVENTS = strategies.events(services=2 * CALLEES, names=2, within=60, lead=20.0, least=8, most=14)


def graph(label: str) -> str:
    """An entry, what it calls, and a store below each that nobody else calls."""
    callees = " ".join(f"{label}0>{label}{k} {label}{k}>{label}{k + CALLEES}" for k in range(1, CALLEES))
    return callees + OTHERS


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False))
def test_the_order_within_a_second_means_nothing_in_a_surge(events: list[Event], rnd: Any) -> None:
    """Permuted arrival within the same second gives the same partition."""
    other = list(events)
    rnd.shuffle(other)

    assert play(events, graph("s")).parts() == play(other, graph("s")).parts()


@settings(max_examples=30, deadline=None)
@given(EVENTS, st.frozensets(st.integers(0, 28), max_size=4))
def test_restarts_change_nothing_in_a_surge(events: list[Event], restart: frozenset[int]) -> None:
    """A snapshot at any moment is the whole state: same incidents, same ids."""
    straight, broken = play(events, graph("s")), play(events, graph("s"), restart=restart)

    assert {fp: straight.of(fp) for fp in straight.home} == {fp: broken.of(fp) for fp in broken.home}
