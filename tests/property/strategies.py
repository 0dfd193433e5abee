"""Random streams of alerts on random graphs, as the laws of grouping and of causes ask for."""

import msgspec
from hypothesis import strategies as st


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
