"""One stream of alerts with its truth, as generators make it and scorecards play it; in memory or in a file."""

import heapq
import json
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulations.partition import Fired


@dataclass
class Stream:
    """One stream and its truth."""

    name: str
    topology: dict[str, Any]
    alerts: list[dict[str, Any]]
    truth: list[dict[str, Any]]
    changes: list[dict[str, Any]] = field(default_factory=list)
    fired: list[Fired] = field(default_factory=list)
    roots: dict[Hashable, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: set[Hashable] = set()
        for n, line in enumerate(self.alerts):
            if line["state"] != "firing":
                seen.discard(line.get("id"))
                continue
            if line.get("id") in seen:
                continue  # sent again
            seen.add(line.get("id"))
            gt = line["_gt"]
            self.fired.append(Fired(line.get("i", n), line["t"], gt["incident"], gt["episode"]))
        self.roots = {t["incident"]: t["root"] for t in self.truth}

    def lines(self) -> Iterable[str]:
        """As a monitoring system would send it: the truth is taken out."""
        for line in self.whole():
            yield json.dumps({k: v for k, v in line.items() if k != "_gt"})

    def whole(self) -> Iterable[dict[str, Any]]:
        """Topology, alerts and changes by arrival, with the truth."""
        return (self.topology, *heapq.merge(self.changes, self.alerts, key=lambda line: float(line["t"])))

    @classmethod
    def read(cls, path: Path) -> "Stream":
        """A stream that was written.

        Raises:
            OSError, ValueError: the file cannot be read.
        """
        by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in path.read_text(encoding="utf-8").splitlines():
            read = json.loads(line)
            by_kind[read["kind"]].append(read)
        (topology,) = by_kind["topology"]
        return cls(path.stem, topology, by_kind["alert"], by_kind["truth"], by_kind["change"])

    def write(self, folder: Path) -> None:
        """One file, the truth at its end."""
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in (*self.whole(), *self.truth))
        (folder / f"{self.name}.jsonl").write_text(text, encoding="utf-8")
