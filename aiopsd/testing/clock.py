"""A clock that stands still until it is told."""


class ManualClock:
    """`protocols.Clock` for tests and virtual time: UTC seconds, settable, may be set back to see what happens."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Move on by `seconds`; the new time."""
        self.now += seconds
        return self.now

    def set(self, now: float) -> None:
        self.now = now
