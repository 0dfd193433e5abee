"""Scorecard: services that never were (simulations/telemetry.py) through the shipped detect stage and its join.

Alarms are scored on a grid of five minutes whatever the sampling interval. Beside the figures of the other scorecards:
onset recall by kind of incident, and what was going on when an alarm was false.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulations import detection, telemetry
from simulations.scoring import Labelled
from simulations.telemetry import Service

GRID = 300.0  # s
EARLY, LATE = 1, 3  # rows of the grid by which an alarm may begin before an incident, or after its end
AFTER = 1800.0  # s; an alarm so long after something harmless is taken to be about it


def labelled(services: Sequence[Service]) -> list[Labelled]:
    """Incidents as events on the grid; the time before the first of them is not scored."""
    out = []
    for s in services:
        ts = np.arange(s.ts[0], s.ts[-1] + 1, GRID)
        runs = [(int((i.start - ts[0]) // GRID), int((i.end - ts[0]) // GRID)) for i in s.incidents]
        windows = tuple((max(a - EARLY, 0), min(b + LATE, len(ts) - 1)) for a, b in runs)
        out.append(Labelled(s.name, ts, np.zeros(len(ts)), windows, tuple(a for a, _ in runs), int(s.quiet / GRID)))
    return out


def inputs(services: Sequence[Service]) -> list[detection.Input]:
    """The services as the detect stage gets them; a metric that occurs twice is told apart by its instance."""
    return [
        detection.Input(
            s.name,
            tuple({"__name__": name, "instance": str(s.names[:m].count(name))} for m, name in enumerate(s.names)),
            s.ts,
            s.values,
        )
        for s in services
    ]


def by_kind(services: Sequence[Service], alarms: Sequence[detection.Alarm]) -> dict[str, dict[str, float]]:
    """kind of incident -> how many there were, and in what share of them an alarm began."""
    total: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for i, s in enumerate(services):
        starts = np.array(sorted(a.ts for a in alarms if a.subject == i))
        for span in s.incidents:
            total[span.kind] += 1
            begun = (starts >= span.start - EARLY * GRID) & (starts <= span.end + LATE * GRID)
            found[span.kind] += bool(begun.any())
    return {kind: {"incidents": total[kind], "onset_recall": found[kind] / total[kind]} for kind in sorted(total)}


def by_cause(services: Sequence[Service], alarms: Sequence[detection.Alarm]) -> dict[str, int]:
    """What harmless thing was going on when an alarm was false -> how often."""
    said: Counter[str] = Counter()
    for a in alarms:
        s = services[a.subject]
        if a.ts < s.ts[0] + s.quiet or any(i.start - EARLY * GRID <= a.ts <= i.end + LATE * GRID for i in s.incidents):
            continue
        after = [i.kind for i in s.incidents if i.end < a.ts <= i.end + 8 * telemetry.HOUR]
        near = [h.kind for h in s.harmless if h.start <= a.ts <= h.end + AFTER]
        said[(near or [f"after {k}" for k in after] or ["nothing"])[0]] += 1
    return dict(said.most_common())


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when the configuration cannot be read."""
    p = detection.parser("synthetic", __doc__.split("\n")[0], data=False)
    p.add_argument("--seeds", type=int, default=1, help="fleets")
    p.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first of them")
    p.add_argument("--config", type=Path, metavar="FILE", help="configuration instead of the shipped one")
    args = p.parse_args(argv)
    try:
        config = detection.config(args)
    except OSError as e:
        print(f"cannot read {args.config}: {e}")
        return 2
    services = [s for seed in range(args.first, args.first + args.seeds) for s in telemetry.fleet(seed)]
    corpus = labelled(services)
    out = detection.play(inputs(services), config)
    figures: dict[str, Any] = detection.figures(corpus, out)
    figures["by_kind"] = by_kind(services, out.alarms)
    figures["false_by_cause"] = by_cause(services, out.alarms)
    if args.json:
        print(json.dumps(figures, indent=1, default=str))
        return 0
    detection.print_figures("synthetic services", figures, "service")
    print("\n  onset recall, shipped default")
    for kind, f in figures["by_kind"].items():
        print(f"  {kind:18s} {f['onset_recall']:5.2f} of {f['incidents']}")
    print("  false: " + ", ".join(f"{n} {cause}" for cause, n in figures["false_by_cause"].items()))
    return 0
