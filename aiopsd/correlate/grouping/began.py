"""The troubles that are kept, by when they began: what an end is weighed against must not grow with what is open.

It follows from the troubles and their onsets, so a snapshot need not hold it.
"""

from collections.abc import Iterator, Mapping

from aiopsd.correlate.grouping.state import State, Trouble, drop_in


class Began:
    """Vertex -> troubles, one such index for each `grain` seconds in which any began."""

    def __init__(self, s: State, grain: float) -> None:
        self._grain = grain
        self._parts: dict[int, dict[str, dict[int, None]]] = {}
        self._where: dict[int, int] = {}  # trouble -> the part that has it
        for row in s.kept.values():
            for tid in row:
                self.put(s.troubles[tid])

    def put(self, trouble: Trouble) -> None:
        """It is kept from now on."""
        part = int(trouble.onset // self._grain)
        self._where[trouble.id] = part
        self._parts.setdefault(part, {}).setdefault(trouble.vertex, {})[trouble.id] = None

    def moved(self, trouble: Trouble) -> None:
        """Its onset has changed."""
        if trouble.id in self._where:
            self.drop(trouble)
            self.put(trouble)

    def drop(self, trouble: Trouble) -> None:
        """It is kept no longer."""
        part = self._where.pop(trouble.id, None)
        if part is None:
            return
        drop_in(self._parts[part], trouble.vertex, trouble.id)
        if not self._parts[part]:
            del self._parts[part]

    def about(self, onset: float) -> Iterator[Mapping[str, dict[int, None]]]:
        """Indexes that have all that began within `grain` of `onset`, and some more."""
        middle = int(onset // self._grain)
        return (part for at in (middle - 1, middle, middle + 1) if (part := self._parts.get(at)) is not None)
