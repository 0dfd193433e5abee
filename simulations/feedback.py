"""Scorecard: recurring trouble that the graph cannot explain, with and without an operator who says so.

Four kinds come again and again at random times, among ordinary outages: a batch job whose load shows up elsewhere
first (`cause`), two services with a dependency that no source knows (`merge`), two neighbours that each have their own
trouble in the same minutes (`split`), and an alert that nobody needs (`noise`). The stream is played twice through the
shipped correlate stage. The second time an operator looks at each incident some minutes later and says what is wrong
with it, once, by the record that the API writes. What counts is what the stage says of the *next* one by itself.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from aiopsd.config import Config
from aiopsd.model import (
    Alert,
    AlertBatch,
    AlertIn,
    Body,
    Edge,
    JournalRecord,
    Node,
    Tick,
    TopologyUpdate,
    Verdict,
    fingerprint,
)
from aiopsd.pipeline import correlate

T0 = 1_767_571_200.0  # a Monday
DAY = 86400.0
LASTS = 900.0  # s of an episode
LOOK = 240.0  # s after its beginning: what the stage has said by then is what people were told
KINDS = ("cause", "merge", "split", "noise")
AFTER = (0, 1, 2, 3)  # verdicts given before; the last stands for as many or more

EDGES = """web>cart web>catalog web>account cart>orders cart>pricing orders>orders-db invoices>orders-db
reports>orders-db catalog>catalog-db account>account-db search>catalog-db shipping>carrier pricing>rates
ledger>books-db exporter>archive"""
BATCH = "reports"  # the true cause of kind `cause`


@dataclass(frozen=True)
class Told:
    """One alert of an episode: how long after its beginning, on what, by which name."""

    after: float
    service: str
    name: str


@dataclass
class Episode:
    """One trouble: its alerts, and what is right to say of it."""

    kind: str  # one of KINDS, or "ordinary"
    at: float
    alerts: tuple[Told, ...]
    verdicts: int = 0  # given on this kind before it
    right: bool = False
    fingerprints: list[str] = field(default_factory=list)


def episodes(seed: int, days: float, each: int) -> list[Episode]:
    """A stream of them, by time; at most one at a time, at least an hour apart."""
    chance = random.Random(seed)
    kinds = [kind for kind in KINDS for _ in range(each)] + ["ordinary"] * each
    chance.shuffle(kinds)
    pause = days * DAY / len(kinds)
    return [_episode(kind, T0 + (i + 0.1 + 0.7 * chance.random()) * pause, chance) for i, kind in enumerate(kinds)]


def _episode(kind: str, at: float, chance: random.Random) -> Episode:
    def soon(most: float) -> float:
        return chance.uniform(0.0, most)

    alerts: tuple[Told, ...]
    if kind == "cause":
        alerts = (
            Told(soon(20), "orders-db", "SlowQueries"),
            Told(30 + soon(30), "orders", "LatencyHigh"),
            Told(30 + soon(30), "invoices", "LatencyHigh"),
            Told(60 + soon(30), "reports", "JobRunning"),
        )
    elif kind == "merge":
        alerts = (Told(soon(10), "shipping", "LabelsFail"), Told(5 + soon(20), "ledger", "PostingsLate"))
    elif kind == "split":
        alerts = (Told(soon(20), "orders", "CacheCold"), Told(soon(20), "invoices", "CertExpires"))
    elif kind == "noise":
        alerts = (Told(soon(10), "exporter", "ArchiveSlow"),)
    else:
        # the database that the batch job hammers also breaks by itself, and then the job is one more that suffers
        root = chance.choice(("orders-db", "orders-db", "catalog-db", "account-db", "pricing", "carrier"))
        alerts = (Told(soon(10), root, "Down"), *(Told(20 + soon(40), c, "ErrorRateHigh") for c in _callers(root)))
    return Episode(kind, at, tuple(sorted(alerts, key=lambda a: a.after)))


def _callers(service: str) -> list[str]:
    return [pair.split(">")[0] for pair in EDGES.split() if pair.endswith(f">{service}")]


class Player:
    """The stage in virtual time, and the operator before it when there is one."""

    def __init__(self, config: Config, operator: bool) -> None:
        self.stage = correlate.build(config)
        self.operator = operator
        self._offset = 0
        self._said: Counter[str] = Counter()
        pairs = [pair.split(">") for pair in EDGES.split()]
        edges = tuple(Edge(caller=u, callee=v) for u, v in pairs)
        nodes = tuple(Node(name=v, kind="datastore") for _, v in pairs if v.endswith("-db"))
        self.step(TopologyUpdate(source="file:shop", edges=edges, nodes=nodes, replace=True), T0)

    def step(self, body: Body, at: float) -> None:
        """One record, after the timers that are due before it."""
        while (due := self.stage.wake_at()) is not None and due < at:
            self._record(Tick(), due)
        self._record(body, at)

    def _record(self, body: Body, at: float) -> None:
        self.stage.step([JournalRecord(offset=self._offset, stamp=at, body=body)])
        self._offset += 1

    def play(self, episode: Episode) -> None:
        """Its alerts, a look at what became of them, the operator's word, and the end."""
        episode.verdicts = self._said[episode.kind]
        end = episode.at + LASTS
        for told in episode.alerts:
            labels = {"alertname": told.name, "service": told.service, "severity": "warning"}
            given = AlertIn(labels=labels, starts_at=episode.at + told.after, ends_at=end)
            self.step(AlertBatch(alerts=(given,), sender="prometheus"), episode.at + told.after)
            episode.fingerprints.append(fingerprint(labels))
        self.step(Tick(), episode.at + LOOK)
        verdict = self._verdict(episode)
        episode.right = verdict is None
        if verdict is not None and self.operator and episode.kind in KINDS:
            self._said[episode.kind] += 1
            self.step(verdict, episode.at + LOOK + 60)
        self.step(Tick(), end + 1)

    def _verdict(self, episode: Episode) -> Verdict | None:
        """What is to be said of what the stage made of the episode; None: nothing, it is right."""
        alerts = [self.stage.alerts[fp] for fp in episode.fingerprints]
        homes = [a.incident for a in alerts if a.incident]
        if episode.kind == "noise":
            return self._of(homes[0], "noise") if homes else None
        if not homes:
            return self._of("", "hidden")
        if episode.kind == "split":
            return self._of(homes[0], "split", fingerprints=_of(alerts[1:])) if len(set(homes)) == 1 else None
        if episode.kind == "merge" or len(set(homes)) > 1:
            other = next((h for h in homes if h != homes[0]), "")
            return self._of(homes[0], "merge", other=other) if other else None
        root = self.stage.incidents[homes[0]].root
        true = BATCH if episode.kind == "cause" else episode.alerts[0].service
        return None if root is not None and root.service == true else self._of(homes[0], "cause", service=true)

    def _of(
        self, incident: str, kind: str, *, service: str = "", other: str = "", fingerprints: tuple[str, ...] = ()
    ) -> Verdict:
        return Verdict(
            request_id=f"v{self._offset}",
            incident=incident,
            kind=kind,
            actor="operator",
            service=service,
            other=other,
            fingerprints=fingerprints,
        )


def _of(alerts: Sequence[Alert]) -> tuple[str, ...]:
    return tuple(a.fingerprint for a in alerts)


def run(seed: int, days: float, each: int, *, operator: bool, config: Config | None = None) -> list[Episode]:
    """Play one stream."""
    stream = episodes(seed, days, each)
    player = Player(config or Config(), operator)
    for episode in stream:
        player.play(episode)
    return stream


def figures(without: Sequence[Episode], helped: Sequence[Episode]) -> Iterator[tuple[str, dict[str, float]]]:
    """Per kind: how often it is right without an operator, and after 0, 1, 2 and more verdicts on its kind."""
    for kind in (*KINDS, "ordinary"):
        plain = [e.right for e in without if e.kind == kind]
        row = {"episodes": float(len(plain)), "without": sum(plain) / max(len(plain), 1)}
        for n in AFTER:
            mine = [
                e.right for e in helped if e.kind == kind and (e.verdicts == n or (n == AFTER[-1] and e.verdicts > n))
            ]
            if mine:
                row[f"after {n}" if n < AFTER[-1] else f"after {n}+"] = sum(mine) / len(mine)
        yield kind, row


def main(argv: list[str]) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(prog="simulations feedback", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="1,2,3,4,5", help="streams to play (default: %(default)s)")
    parser.add_argument("--days", type=float, default=30.0, help="length of each (default: %(default)s)")
    parser.add_argument("--each", type=int, default=12, help="episodes of each kind (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    args = parser.parse_args(argv)
    without: list[Episode] = []
    helped: list[Episode] = []
    for seed in map(int, args.seeds.split(",")):
        without += run(seed, args.days, args.each, operator=False)
        helped += run(seed, args.days, args.each, operator=True)
    table = dict(figures(without, helped))
    if args.json:
        print(json.dumps(table))
        return 0
    columns = ["episodes", "without", *(f"after {n}" for n in AFTER[:-1]), f"after {AFTER[-1]}+"]
    print("share that is right; `after n`: when the operator has said n times what is wrong with this kind\n")
    print(f"{'':10s}" + "".join(f"{c:>10s}" for c in columns))
    for kind, row in table.items():
        cells = (
            f"{row[c]:10.0f}" if c == "episodes" else f"{row[c]:10.2f}" if c in row else f"{'':10s}" for c in columns
        )
        print(f"{kind:10s}" + "".join(cells))
    return 0
