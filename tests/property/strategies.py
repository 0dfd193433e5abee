"""Random streams of alerts on random graphs, as the laws of grouping and of causes ask for."""

from collections.abc import Sequence

import msgspec
from hypothesis import strategies as st

from aiopsd.testing.grouping import START


class Event(msgspec.Struct, frozen=True):
    """One alert: the second of its arrival, how long before it began, where, its name, seconds until it ends."""

    second: int
    lead: float
    service: int
    name: int
    lasts: int

    @property
    def content(self) -> str:
        """What names an event, so that it does not depend on its place in the list."""
        return f"{self.second}/{self.lead}/{self.lasts}"


def events(
    *, services: int, names: int, within: int, lead: float, least: int = 1, most: int = 25
) -> st.SearchStrategy[list[Event]]:
    """From `least` to `most` different ones that arrive `within` seconds and began up to `lead` seconds before."""
    one = st.builds(
        Event,
        second=st.integers(0, within),
        lead=st.floats(0.0, lead),
        service=st.integers(0, services - 1),
        name=st.integers(0, names - 1),
        lasts=st.integers(30, 1500),
    )
    return st.lists(one, min_size=least, max_size=most, unique=True)


def graphs(*, services: int, most: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Calls between services by their numbers; one that calls itself is no call."""
    number = st.integers(0, services - 1)
    return st.lists(st.tuples(number, number).filter(lambda pair: pair[0] != pair[1]), max_size=most)


def told_apart(events: Sequence[Event]) -> list[Event]:
    """No two that began at one instant: these are taken in one after the other, in the order of their fingerprints.

    One instant by the clock of the stage: beside START's 1.7e9 seconds a tenth of a microsecond is none.
    Each placement is weighed against the ones before it and teaches the next, so an order there must be, and in a graph
    with symmetries none survives every renaming. One by who calls whom leaves a third of the streams that differ.
    """
    return list({START + (e.second - e.lead): e for e in events}.values())
