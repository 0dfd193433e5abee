"""Labelled series through the shipped detect stage with its shipped defaults, strictly online; what it said of each.

Series enter as remote-write bodies in time order, as a daemon would get them; nothing is set per file, nothing looks
ahead, no length, minimum or maximum is known. Recordings of different years are shifted by whole weeks onto one
stream: hour of day and day of week stay, and so does every distance in time.

The scorecards (nab, cloud_monitoring, jumpstarter, drift) share what is here: playing, tables, --json and --alarms.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.config import Config, load
from aiopsd.detect.join import Join, Seen
from aiopsd.model import Anomaly, Append, DriftDetected, LogRecord, Reject
from aiopsd.pipeline import detect
from simulations import wire
from simulations.scoring import PROFILES, Alarms, EventScore, Labelled, Nab, Sweep, score_alarms

F64 = NDArray[np.float64]
WEEK = 604800.0
BUDGETS = (0.02, 0.05, 0.2)  # false alarms per series (or service) and day
# of the configuration, beside its own; its default is one of them
THRESHOLDS = tuple(o / (1 + o) for o in sorted([1.0, *np.geomspace(6.6, 0.2, 24).tolist()], reverse=True))


@dataclass(frozen=True)
class Input:
    """Series of one subject that is scored: labels of each, ts float64[rows], values float64[series, rows]."""

    subject: str
    labels: tuple[dict[str, str], ...]
    ts: F64
    values: F64


@dataclass(frozen=True)
class Alarm:
    """One anomaly from its first decision to its end, in the time of the recording."""

    subject: int
    ts: float
    end: float
    score: float


@dataclass
class Output:
    """What the stage said.

    `scores[i]` float64[series, rows]: the bank's score of each sample of subject i. `swept[k]`: what the alarms would
    be with `THRESHOLDS[k]` as the configuration's threshold.
    """

    scores: list[F64]
    alarms: list[Alarm] = field(default_factory=list)
    swept: list[list[Alarm]] = field(default_factory=list)
    drifts: list[tuple[int, float, DriftDetected]] = field(default_factory=list)  # (subject, time, event)
    rejects: int = 0
    samples: int = 0
    stage_cpu: float = 0.0  # seconds in DetectStage.step, decoding included
    bank_cpu: float = 0.0  # seconds of it in the bank
    samples_a_round: float = 0.0
    bytes_per_series: float = 0.0


class Tap:
    """Listens to what the stage's bank scores and its second tier makes of that, without changing any of it."""

    def __init__(self, stage: Any) -> None:
        self.scores: list[NDArray[np.float32]] = []
        self.breaks: list[Seen] = []  # as the join gets them
        self.cpu = 0.0
        self.calls = 0
        self.theta = stage._policy.theta
        self._said: dict[int, float] = {}  # evidence by the bank of the samples of the last call
        self._step = stage._bank.step
        self._confirm = stage._online.confirm
        stage._bank.step = self.step
        stage._online.confirm = self.confirm

    def step(self, rows: NDArray[np.intp], ts: F64, values: F64, *more: Any) -> Any:
        """As RangeBank.step."""
        began = time.process_time()
        outcome = self._step(rows, ts, values, *more)
        self.cpu += time.process_time() - began
        self.calls += 1
        self.scores.append(outcome.scores.copy())
        self._said = dict(zip(outcome.breaks.pos.tolist(), outcome.breaks.evidence.tolist(), strict=True))
        return outcome

    def confirm(self, bank: Any, models: Any) -> Iterator[Any]:
        """As Online.confirm; the scores follow what it makes of the evidence."""
        scores = self.scores[-1]
        for seen in self._confirm(bank, models):
            if seen.channel < 0:
                scores[seen.pos] = max(scores[seen.pos], seen.evidence / (seen.evidence + self.theta))
            elif scores[seen.pos] > 0 and 0 < self._said[seen.pos] != seen.evidence:
                held = self.theta * scores[seen.pos] / (1 - scores[seen.pos]) * seen.evidence / self._said[seen.pos]
                scores[seen.pos] = held / (held + self.theta)
            self.breaks.append(seen)
            yield seen

    def drain(self) -> tuple[NDArray[np.float32], list[Seen]]:
        """Scores of all samples since the last call, in their order, and the breaks among them."""
        scores, breaks = self.scores, self.breaks
        self.scores, self.breaks = [], []
        return np.concatenate(scores) if scores else np.zeros(0, np.float32), breaks


class Kept:
    """Anomalies as alarms, from the first decision to the end, in the time of their recordings."""

    def __init__(self, shifts: Sequence[float]) -> None:
        self._shifts = shifts
        self._live: dict[str, Alarm] = {}
        self._done: list[Alarm] = []

    def take(self, body: Anomaly) -> None:
        """One version of an event."""
        i = int(body.service[1:])
        ts = body.ts + self._shifts[i]
        known = self._live.pop(body.id, Alarm(i, ts, ts, 0.0))
        alarm = Alarm(i, known.ts, ts, max(body.score, known.score))
        if body.state == "resolved":
            self._done.append(alarm)
        else:
            self._live[body.id] = alarm

    def alarms(self) -> list[Alarm]:
        """All of them, those that have not ended included."""
        return sorted([*self._done, *self._live.values()], key=lambda a: (a.subject, a.ts))


class Others:
    """Joins as the stage's own, at other thresholds: what would be told if the configuration said so.

    They see what the stage's join sees. The rows that they follow have to be watched by the bank, too; its own join
    takes no notice of a sample that is inside its range and of a row that it does not follow.
    """

    def __init__(self, stage: Any, thresholds: Sequence[float], shifts: Sequence[float]) -> None:
        own = stage._join
        self._bank = stage._bank
        policies = [msgspec.structs.replace(own.policy, threshold=t) for t in thresholds]
        self._joins = [Join(policy, stage._roster.describe) for policy in policies]
        self._kept = [Kept(shifts) for _ in thresholds]
        for name in ("appear", "vanish", "recount"):
            setattr(own, name, self._with(getattr(own, name), [getattr(j, name) for j in self._joins]))

    @staticmethod
    def _with(own: Callable[..., None], others: Sequence[Callable[..., None]]) -> Callable[..., None]:
        def each(*args: Any) -> None:
            for call in (own, *others):
                call(*args)

        return each

    def take(self, breaks: Sequence[Seen], watermark: float) -> None:
        """What one record held."""
        for join, kept in zip(self._joins, self._kept, strict=True):
            events = [e for e in map(join.observe, breaks) if e is not None]
            if join.next_due() <= watermark:
                events += join.due(watermark)
            for event in events:
                kept.take(event)
            join.touched.clear()
        for row in {row for join in self._joins for row in join.members}:
            self._bank.watch(row, True)

    def alarms(self) -> list[list[Alarm]]:
        """Per threshold."""
        return [kept.alarms() for kept in self._kept]


def shifts(subjects: Sequence[Input]) -> list[float]:
    """Whole weeks by which each recording is later than the first of them."""
    base = min(float(s.ts[0]) for s in subjects)
    return [WEEK * math.floor((float(s.ts[0]) - base) / WEEK) for s in subjects]


def play(
    subjects: Sequence[Input], config: Config | None = None, *, bucket: float = 300.0, sweep: bool = True
) -> Output:
    """Everything through one DetectStage of this configuration (default: the shipped one).

    A record holds what arrived within `bucket` seconds of stream time. The label `service` of each series becomes the
    subject's number, so that events lead back to it. `sweep`: tell what other thresholds would have told, too.
    """
    away = shifts(subjects)
    heads = [[wire.label_bytes(labels | {"service": f"s{i}"}) for labels in s.labels] for i, s in enumerate(subjects)]
    who, row = (
        np.concatenate(parts)
        for parts in zip(*((np.full(len(s.ts), i), np.arange(len(s.ts))) for i, s in enumerate(subjects)), strict=True)
    )
    at = np.concatenate([s.ts - shift for s, shift in zip(subjects, away, strict=True)])
    order = np.lexsort((who, at, np.floor(at / bucket)))
    cuts = np.flatnonzero(np.diff(np.floor(at[order] / bucket))) + 1

    stage = detect.build(config or Config(), "scorecard", 0, None)
    tap = Tap(stage)
    others = Others(stage, THRESHOLDS if sweep else (), away)
    kept = Kept(away)
    out = Output(scores=[np.zeros(s.values.shape) for s in subjects])
    for offset, part in enumerate(np.split(order, cuts)):
        pieces = []
        places = []
        for i, k, t in zip(who[part].tolist(), row[part].tolist(), at[part].tolist(), strict=True):
            for j, v in enumerate(subjects[i].values[:, k].tolist()):
                if v == v:
                    pieces.append(wire.time_series(heads[i][j], (t,), (v,)))
                    places.append((i, j, k))
        record = LogRecord(
            source="scorecard",
            partition=0,
            offset=offset,
            value=wire.compressed(b"".join(pieces)),
            format=wire.REMOTE_WRITE,
            stamp=float(at[part].max()),
        )
        began = time.process_time()
        effects = stage.step([record])
        out.stage_cpu += time.process_time() - began
        scores, breaks = tap.drain()
        if len(scores) != len(places):
            raise RuntimeError(f"the stage scored {len(scores)} samples of {len(places)}")
        for (i, j, k), score in zip(places, scores.tolist(), strict=True):
            out.scores[i][j, k] = score
        others.take(breaks, stage.watermark)
        for effect in effects:
            if isinstance(effect, Reject):
                out.rejects += effect.items
            elif isinstance(effect, Append):
                if isinstance(effect.body, DriftDetected):
                    i = int(effect.body.service[1:])
                    out.drifts.append((i, effect.body.ts + away[i], effect.body))
                elif isinstance(effect.body, Anomaly):
                    kept.take(effect.body)
    out.alarms, out.swept = kept.alarms(), others.alarms()
    out.samples = stage.samples
    out.bank_cpu = tap.cpu
    out.samples_a_round = out.samples / max(tap.calls, 1)
    out.bytes_per_series = stage._bank.bytes_per_row
    return out


def rows_of(corpus: Sequence[Labelled], alarms: Sequence[Alarm]) -> list[Alarms]:
    """Alarms as rows of their series: from the row of the decision to the last row before the end."""
    out: list[Alarms] = [[] for _ in corpus]
    for alarm in alarms:
        ts = corpus[alarm.subject].ts
        first = int(np.searchsorted(ts, alarm.ts - 1e-6))
        last = int(np.searchsorted(ts, alarm.end + 1e-6)) - 1
        if first < len(ts):
            out[alarm.subject].append((first, max(first, last)))
    return out


# --------------------------------------------------------------------------- figures


def figures(corpus: Sequence[Labelled], out: Output) -> dict[str, Any]:
    """Everything a scorecard says of a corpus but NAB's own score.

    `shipped` is what the pipeline's events come to as they are; `budgets`, at other thresholds of its configuration.
    """
    sweep = Sweep(corpus, THRESHOLDS, [rows_of(corpus, alarms) for alarms in out.swept])
    budgets = {}
    for budget in BUDGETS:
        i = sweep.within(budget)
        recall, false = sweep.halves(budget)
        budgets[str(budget)] = {
            "threshold": None if i is None else sweep.thresholds[i],
            **({} if i is None else asdict(sweep.figures(i))),
            "other_half_onset_recall": recall,
            "other_half_onset_false_per_day": false,
        }
    days = sum(float(s.ts[-1] - s.ts[0]) / 86400.0 for s in corpus)
    series = sum(len(x) if x.ndim == 2 else 1 for x in out.scores)
    per_week = 7.0 / (days * series / len(corpus)) if days else 0.0
    return {
        "series": series,
        "subjects": len(corpus),
        "samples": out.samples,
        "rejected": out.rejects,
        "shipped": asdict(score_alarms(corpus, rows_of(corpus, out.alarms))),
        "budgets": budgets,
        "drifts_per_series_week": len(out.drifts) * per_week,
        "cpu_us_per_sample": {
            "stage": 1e6 * out.stage_cpu / max(out.samples, 1),
            "bank": 1e6 * out.bank_cpu / max(out.samples, 1),
            "samples_a_round": out.samples_a_round,
        },
        "bytes_per_series": out.bytes_per_series,
    }


def nab_figures(corpus: Sequence[Labelled], scores: Sequence[F64], out: Output, default: float) -> dict[str, Any]:
    """NAB's score per profile: threshold swept, at the shipped threshold, of the pipeline's own events, by halves."""
    nab = Nab(corpus)
    decided = [np.zeros(len(s.ts)) for s in corpus]
    for f, alarms in enumerate(rows_of(corpus, out.alarms)):
        for first, _ in alarms:
            decided[f][first] = 1.0
    result = {}
    for profile in PROFILES:
        best, threshold = nab.best(scores, profile)
        mean, spread = nab.halves(scores, profile)
        result[profile] = {
            "swept": best,
            "threshold": threshold,
            "at_default": nab.at(scores, default, profile),
            "events": nab.at(decided, 0.5, profile),
            "other_half": mean,
            "other_half_sd": spread,
        }
    return result


def print_figures(title: str, figures: dict[str, Any], per: str) -> None:
    """The table of `figures` on standard output; `per` names the subject of the budget."""
    what = (
        f"{figures['series']} series"
        if per == "series"
        else f"{figures['subjects']} {per}s, {figures['series']} series"
    )
    print(f"{title}: {what}, {figures['samples']:,} samples scored")
    if figures["rejected"]:
        print(f"  {figures['rejected']} samples rejected")
    if "nab" in figures:
        print(f"\n  {'NAB profile':22s} {'swept':>7s} {'at':>7s} {'default':>8s} {'events':>7s} {'other half':>14s}")
        for profile, f in figures["nab"].items():
            print(
                f"  {profile:22s} {f['swept']:7.2f} {f['threshold']:7.3f} {f['at_default']:8.2f} {f['events']:7.2f}"
                f" {f['other_half']:7.2f} +- {f['other_half_sd']:4.2f}"
            )
    head = (
        "P",
        "R",
        "F1",
        "onset R",
        f"false/{per}-day",
        "onset false",
        "delay rows",
        "delay min",
        "alarms",
        "other half R",
    )
    widths = (5, 5, 5, 8, len(head[4]) + 1, 12, 11, 10, 7, 13)
    print("\n  " + f"{'events':18s}" + "".join(f"{h:>{w}s}" for h, w in zip(head, widths, strict=True)))

    def line(name: str, f: dict[str, Any], other: str = "") -> None:
        if "precision" not in f:
            print(f"  {name:18s} no threshold is high enough: the score saturates")
            return
        cells = (
            f"{f['precision']:.2f}", f"{f['recall']:.2f}", f"{f['f1']:.2f}", f"{f['onset_recall']:.2f}",
            f"{f['false_per_day']:.4f}", f"{f['onset_false_per_day']:.4f}", f"{f['delay_rows']:.0f}",
            f"{f['delay_seconds'] / 60:.0f}", str(f["alarms"]), other,
        )  # fmt: skip
        print(f"  {name:18s}" + "".join(f"{c:>{w}s}" for c, w in zip(cells, widths, strict=True)))

    line("shipped default", figures["shipped"])
    for budget, f in figures["budgets"].items():
        line(f"at <= {budget}", f, f"{f['other_half_onset_recall']:.2f}")
    cpu = figures["cpu_us_per_sample"]
    print(
        f"\n  CPU {cpu['stage']:.2f} us a sample with decoding, {cpu['bank']:.2f} in the bank, at rounds of"
        f" {cpu['samples_a_round']:.0f} samples (dense rounds: python -m simulations bench);"
        f" {figures['bytes_per_series']:.0f} bytes a series;"
        f" {figures['drifts_per_series_week']:.3f} drifts a series-week"
    )


# --------------------------------------------------------------------------- the command line


def parser(name: str, text: str, *, data: bool = True) -> argparse.ArgumentParser:
    """Options that all scorecards share."""
    p = argparse.ArgumentParser(prog=f"python -m simulations {name}", description=text)
    if data:
        p.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the data set")
        p.add_argument("--alarms", type=Path, metavar="FILE", help="write one JSON line per alarm")
        p.add_argument("--config", type=Path, metavar="FILE", help="configuration instead of the shipped one")
    p.add_argument("--json", action="store_true", help="print the figures as one JSON object instead of a table")
    return p


def config(args: argparse.Namespace) -> Config:
    """The configuration that the scorecard was asked to play.

    Raises:
        OSError: the file cannot be read.
        ConfigError: it cannot be used.
    """
    return Config() if args.config is None else load(args.config.read_text(encoding="utf-8"))


def write_alarms(path: Path, kind: str, names: Sequence[str], alarms: Sequence[Alarm]) -> None:
    """One JSON line per alarm: {kind: name, "ts", "end", "score"}, times as in the recording (UTC seconds)."""
    with path.open("w", encoding="utf-8") as f:
        for a in alarms:
            f.write(json.dumps({kind: names[a.subject], "ts": a.ts, "end": a.end, "score": round(a.score, 4)}) + "\n")


def single(corpus: Sequence[Labelled]) -> list[Input]:
    """Each series as a service of its own; its name says nothing, so that no rule can read a meaning into it."""
    return [Input(s.name, ({"__name__": "value"},), s.ts, s.values[None, :]) for s in corpus]


def finish(figures: dict[str, Any], as_json: bool, title: str, per: str) -> int:
    """Print the figures; the exit code."""
    if as_json:
        print(json.dumps(figures, indent=1, default=str))
    else:
        print_figures(title, figures, per)
    return 0


__all__ = [
    "Alarm", "EventScore", "Input", "Output", "config", "figures", "finish", "nab_figures", "parser", "play", "rows_of",
    "single", "write_alarms",
]  # fmt: skip
