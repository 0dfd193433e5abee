"""Figures of a grouping of alerts against the truth: who is with whom, who was told, which cause stood first.

Alerts that belong to no incident (noise) count as incidents of one, per spell of the same condition.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

FIGURES = ("ari", "frag", "over", "hidden", "top1", "top3", "noise_in", "b3", "open_s", "notify")


@dataclass(frozen=True)
class Fired:
    """One firing alert. `truth` is its incident, or None and `spell` names its spell of noise; `at` its arrival, s."""

    key: Hashable
    at: float
    truth: Hashable | None
    spell: Hashable = None

    @property
    def owner(self) -> tuple[str, Hashable]:
        """What caused it: an incident or a spell of noise."""
        return ("incident", self.truth) if self.truth is not None else ("noise", self.spell)


@dataclass
class Answer:
    """What a grouper said. `group`: alert -> group after all merges; `opened`: group -> time, None: nobody is told."""

    group: Mapping[Hashable, Hashable]
    opened: Mapping[Hashable, float | None] = field(default_factory=dict)
    roots: Mapping[Hashable, Sequence[str]] = field(default_factory=dict)


def adjusted_rand(true: Sequence[Hashable], found: Sequence[Hashable]) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985); 1.0 for equal partitions, 0 for chance.

    >>> adjusted_rand([0, 0, 1, 1], [5, 5, 7, 7])
    1.0
    """
    n = len(true)
    both, a, b = _pairs(Counter(zip(true, found, strict=True))), _pairs(Counter(true)), _pairs(Counter(found))
    total = n * (n - 1) / 2
    expected = a * b / total if total else 0.0
    top = (a + b) / 2
    return (both - expected) / (top - expected) if top != expected else 1.0


def b_cubed(true: Sequence[Hashable], found: Sequence[Hashable]) -> float:
    """F1 of B-cubed precision and recall (Bagga and Baldwin 1998)."""
    n = max(1, len(true))
    cells, a, b = Counter(zip(true, found, strict=True)), Counter(true), Counter(found)
    precision = sum(k * k / b[g] for (_, g), k in cells.items()) / n
    recall = sum(k * k / a[t] for (t, _), k in cells.items()) / n
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _pairs(counts: Mapping[Hashable, int]) -> float:
    return sum(k * (k - 1) / 2 for k in counts.values())


@dataclass(frozen=True)
class Verdict:
    """What became of one incident. `parts`: group -> its alerts there; `others`: group -> owners in it besides."""

    incident: Hashable
    root: str
    parts: Mapping[Hashable, int]
    others: Mapping[Hashable, tuple[tuple[str, Hashable], ...]]
    told: float  # seconds from its first alert until somebody was told; inf: hidden
    first_root: str


def judge(fired: Sequence[Fired], roots: Mapping[Hashable, str], answer: Answer) -> list[Verdict]:
    """One verdict an incident that fired at all, in order of their first alerts.

    A group tells of whoever opened it: an incident that opened none is hidden in the groups of others.
    """
    parts: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    owners: dict[Hashable, dict[tuple[str, Hashable], None]] = defaultdict(dict)
    first: dict[Hashable, float] = {}
    told: dict[tuple[str, Hashable], float] = {}
    for alert in fired:
        group = answer.group.get(alert.key, ("alone", alert.key))
        if not owners[group]:
            opened = answer.opened.get(group, alert.at)
            if opened is not None:
                told.setdefault(alert.owner, max(alert.at, opened))
        owners[group][alert.owner] = None
        if alert.truth is not None:
            parts[alert.truth][group] += 1
            first.setdefault(alert.truth, alert.at)
    out = []
    for incident, groups in parts.items():
        if incident not in roots:
            continue
        me = ("incident", incident)
        main = groups.most_common(1)[0][0]
        out.append(
            Verdict(
                incident=incident,
                root=roots[incident],
                parts=groups,
                others={g: tuple(o for o in owners[g] if o != me) for g in groups},
                told=told[me] - first[incident] if me in told else math.inf,
                first_root=next(iter(answer.roots.get(main, ())), ""),
            )
        )
    return out


def figures(fired: Sequence[Fired], roots: Mapping[Hashable, str], answer: Answer) -> dict[str, float]:
    """All of FIGURES; `open_s` counts an hour for a hidden incident, `notify` groups that were told per incident."""
    true = [a.owner for a in fired]
    found = [answer.group.get(a.key, ("alone", a.key)) for a in fired]
    verdicts = judge(fired, roots, answer)
    mixed: dict[Hashable, set[Hashable]] = defaultdict(set)
    for owner, group in zip(true, found, strict=True):
        if owner[0] == "incident":
            mixed[group].add(owner)
    top3 = 0.0
    for v in verdicts:
        main = max(v.parts, key=lambda g: v.parts[g])
        top3 += v.root in answer.roots.get(main, ())[:3]
    told = [g for g in dict.fromkeys(found) if answer.opened.get(g, 0.0) is not None]
    n = max(1, len(verdicts))
    noise = [g for o, g in zip(true, found, strict=True) if o[0] == "noise"]
    return {
        "ari": adjusted_rand(true, found),
        "frag": _mean(len(v.parts) for v in verdicts),
        "over": _mean(len(m) > 1 for m in mixed.values()),
        "hidden": sum(math.isinf(v.told) for v in verdicts) / n,
        "top1": sum(v.first_root == v.root for v in verdicts) / n,
        "top3": top3 / n,
        "noise_in": _mean(bool(mixed.get(g)) for g in noise),
        "b3": b_cubed(true, found),
        "open_s": sum(v.told if math.isfinite(v.told) else 3600.0 for v in verdicts) / n,
        "notify": len(told) / n,
    }


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every) if every else 0.0
