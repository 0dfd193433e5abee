"""The troubles that are kept, by when they began: what an end is weighed against must not grow with what is open.

It follows from the troubles and their onsets, so a snapshot need not hold it.
"""

from collections.abc import Iterator, Mapping

from aiopsd.correlate.grouping.state import State, Trouble, drop_in


class Began:
    """Vertex -> troubles, one such index for each `grain` seconds in which any began."""

    def __init__(self, s: State, grain: float) -> None:
        self.s = s
        self._grain = grain
        self._parts: dict[int, dict[str, dict[int, None]]] = {}
        for row in s.kept.values():
            for tid in row:
                self.put(s.troubles[tid])

    def put(self, trouble: Trouble) -> None:
        """It is kept from now on."""
        at = int(trouble.onset // self._grain)
        part = self._parts.get(at)
        if part is None:
            part = self._parts[at] = {}
        part.setdefault(trouble.vertex, {})[trouble.id] = None

    def moved(self, trouble: Trouble, before: float) -> None:
        """Its onset was `before` until now."""
        if trouble.id in self.s.kept.get(trouble.vertex, ()):
            self._drop(trouble, before)
            self.put(trouble)

    def drop(self, trouble: Trouble) -> None:
        """It is kept no longer, if it was."""
        self._drop(trouble, trouble.onset)

    def _drop(self, trouble: Trouble, onset: float) -> None:
        at = int(onset // self._grain)
        part = self._parts.get(at)
        if part is not None:
            drop_in(part, trouble.vertex, trouble.id)
            if not part:
                del self._parts[at]

    def about(self, onset: float) -> Iterator[Mapping[str, dict[int, None]]]:
        """Indexes that have all that began within `grain` of `onset`, and some more."""
        middle = int(onset // self._grain)
        return (part for at in (middle - 1, middle, middle + 1) if (part := self._parts.get(at)) is not None)
