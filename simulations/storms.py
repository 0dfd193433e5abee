"""Scorecard of many storms: streams of a generator through the shipped stage; goal, result and ceiling side by side.

`--generator world` makes them out of physics (simulations/outages). A folder holds what `--write` kept. Any other is a
Python file with `parser()` (argparse, with --seed, --services and its knobs) and `simulate(args) -> (topology line,
alert lines, truth lines)`. Each alert line carries its truth under `_gt` ({"incident", "episode", "hop"}), which the
player never looks at. `--oracle` adds the ceiling (simulations/oracle.py).
"""

import argparse
import importlib.util
import json
import math
import random
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from simulations import oracle, outages, partition
from simulations.storm import Homes, play
from simulations.stream import Stream

# Harder weather, as knobs; a generator that has other knobs keeps its own values.
PRESETS: dict[str, dict[str, float]] = {
    "default": {},
    "hard": {"loss": 0.3, "noise": 40.0, "overlap": 0.8, "concurrent": 6, "skew": 5.0, "flap": 0.3, "rate": 4.0},
    "storm": {"rate": 1.0, "overlap": 1.0, "concurrent": 8, "noise": 20.0, "duration": 2400.0},
}
GOALS: dict[str, dict[str, float]] = {
    "default": {"ari": 0.85, "top1": 0.97, "frag": 1.2, "hidden": 0.01, "over": 0.03},
    "hard": {"ari": 0.65, "top1": 0.88},
}
Maker = Callable[[str, int, int], "Stream"]  # preset, seed, services
LOW = ("frag", "over", "hidden", "noise_in", "open_s", "notify")  # the lower the better


def source(name: str) -> tuple[Sequence[str], Maker]:
    """A generator by its name or the path of its file: what presets it has, and what makes a stream of one.

    Raises:
        OSError, ImportError: there is none.
    """
    if name == "world":
        return list(outages.PRESETS), of_world
    if (folder := Path(name)).is_dir():
        found = dict.fromkeys(path.stem.rpartition("-")[0] for path in sorted(folder.glob("*-*.jsonl")))
        return list(found), lambda preset, seed, _: Stream.read(folder / f"{preset}-{seed}.jsonl")
    generator = load(name)
    return list(PRESETS), lambda preset, seed, services: make(generator, preset, seed, services)


def of_world(preset: str, seed: int, services: int) -> Stream:
    """A stream of the simulated world."""
    made = outages.simulate(outages.PRESETS[preset], services, seed)
    return Stream(f"{preset}-{seed}", made.topology, made.alerts, made.truth, made.changes)


def load(path: str) -> ModuleType:
    """A generator by the path of its file.

    Raises:
        OSError, ImportError: there is none.
    """
    spec = importlib.util.spec_from_file_location(f"generator_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(generator: ModuleType, preset: str, seed: int, services: int) -> Stream:
    """One stream from a seed."""
    args = generator.parser().parse_args([])
    args.services, args.seed = services, seed
    for knob, value in PRESETS[preset].items():
        if hasattr(args, knob):
            setattr(args, knob, value)
    return Stream(f"{preset}-{seed}", *generator.simulate(args))


def answered(stream: Stream) -> tuple[partition.Answer, float]:
    """What the shipped stage says, and CPU seconds."""
    homes = Homes()
    opened: dict[Hashable, float | None] = {}
    roots: dict[Hashable, Sequence[str]] = {}

    def write(line: dict[str, Any]) -> None:
        homes.take(line)
        if line["kind"] == "incident":
            opened[line["incident"]], roots[line["incident"]] = line["opened"], line["roots"]

    began = time.process_time()
    play(stream.lines(), write)
    spent = time.process_time() - began
    return partition.Answer(homes.all(), opened, roots), spent


def worst(stream: Stream, answer: partition.Answer, most: int) -> list[str]:
    """The incidents that went wrong most, in words."""
    bad = []
    for v in partition.judge(stream.fired, stream.roots, answer):
        mixed = sum(o[0] == "incident" for others in v.others.values() for o in others)
        faults = (math.isinf(v.told), len(v.parts) - 1 + mixed, v.first_root != v.root)
        if any(faults):
            sizes = "+".join(str(k) for k in sorted(v.parts.values(), reverse=True))
            text = (
                f"{stream.name} incident {v.incident}: root {v.root}, {sizes} alerts, first cause {v.first_root or '-'}"
            )
            text += f", with {mixed} other incidents" if mixed else ""
            text += ", HIDDEN" if faults[0] else ""
            bad.append((faults, text))
    bad.sort(key=lambda b: b[0], reverse=True)
    return [text for _, text in bad[:most]]


def table(rows: dict[str, dict[str, float]], goals: dict[str, float]) -> str:
    """Figures as columns; goal, result and ceiling as rows."""
    out = ["".join((f"{'':10s}", *(f"{k:>10s}" for k in partition.FIGURES)))]
    if goals:
        out.append("".join((f"{'goal':10s}", *(f"{_goal(k, goals):>10s}" for k in partition.FIGURES))))
    for name, row in rows.items():
        out.append(
            "".join((f"{name:10s}", *(f"{row[k]:10.3f}" if k in row else f"{'':10s}" for k in partition.FIGURES)))
        )
    return "\n".join(out)


def _goal(key: str, goals: dict[str, float]) -> str:
    return "" if key not in goals else ("<= " if key in LOW else ">= ") + f"{goals[key]:g}"


def seeds(text: str) -> list[int]:
    """`3-5` or `3`.

    >>> seeds("3-5")
    [3, 4, 5]
    """
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over the streams."""
    return {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]} if rows else {}


def choose(p: argparse.ArgumentParser) -> None:
    """Options that say which streams."""
    p.add_argument("--generator", required=True, metavar="NAME", help="`world`, a Python file or a folder")
    p.add_argument("--preset", nargs="+", default=[], help=f"world: {', '.join(outages.PRESETS)}; {', '.join(PRESETS)}")
    p.add_argument("--seeds", type=seeds, default=seeds("100-104"), metavar="FIRST-LAST")
    p.add_argument("--services", type=int, default=200)


def chosen(args: argparse.Namespace) -> dict[str, Iterable[Stream]]:
    """The streams of these options."""
    return streams(args.generator, args.preset, args.seeds, args.services)


def streams(
    generator: str, presets: Sequence[str], numbers: Sequence[int], services: int = 200
) -> dict[str, Iterable[Stream]]:
    """Preset -> its streams, each made when it is asked for; without presets, all but the storm.

    Raises:
        OSError, ImportError: there is no such generator.
        ValueError: it has no such preset.
    """
    known, maker = source(generator)
    wanted = presets or [preset for preset in known if preset != "storm"]
    if strange := set(wanted) - set(known):
        raise ValueError(f"{generator} has no preset {', '.join(sorted(strange))}; it has {', '.join(known)}")
    return {preset: _each(maker, preset, numbers, services) for preset in wanted}


def _each(maker: Maker, preset: str, numbers: Iterable[int], services: int) -> Iterator[Stream]:
    for seed in numbers:
        yield maker(preset, seed, services)


def without_topology(stream: Stream) -> None:
    """Nobody has told of a graph yet: a first day."""
    stream.topology = {"kind": "topology", "nodes": {}, "edges": []}


def with_stale_topology(stream: Stream) -> None:
    """Of its edges 30 % are not known, and as many as a tenth of them are wrong; the same ones each time."""
    rng = random.Random(stream.name)
    edges, names = stream.topology["edges"], list(stream.topology["nodes"])
    wrong = [rng.sample(names, 2) for _ in range(len(edges) // 10)]
    stream.topology = stream.topology | {"edges": [e for e in edges if rng.random() >= 0.3] + wrong}


def main(argv: list[str]) -> int:
    """Exit code 0; 2 when there is no such generator."""
    p = argparse.ArgumentParser(prog="simulations storms", description=__doc__.split("\n")[0])
    choose(p)
    graph = p.add_mutually_exclusive_group()
    graph.add_argument("--without-topology", action="store_true", help="play the streams without their graph")
    graph.add_argument("--stale-topology", action="store_true", help="30 %% of its edges are missing, 10 %% are wrong")
    p.add_argument("--oracle", action="store_true", help="add what a perfect grouper could reach")
    p.add_argument("--worst", type=int, default=0, metavar="N", help="tell the worst N incidents of each stream")
    p.add_argument("--write", type=Path, metavar="DIR", help="keep the streams there, and play nothing")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(argv)
    try:
        made_of = chosen(args)
    except (OSError, ImportError, ValueError) as e:
        print(e)
        return 2
    goals = GOALS if args.generator != "world" and args.services == 200 else {}
    report: dict[str, dict[str, dict[str, float]]] = {}
    for preset, made in made_of.items():
        every = list(made)
        for stream in every:
            if args.without_topology:
                without_topology(stream)
            elif args.stale_topology:
                with_stale_topology(stream)
        if args.write is not None:
            for stream in every:
                stream.write(args.write)
            continue
        results: list[dict[str, float]] = []
        for stream in every:
            answer, spent = answered(stream)
            row = partition.figures(stream.fired, stream.roots, answer)
            results.append(row | {"cpu_us": 1e6 * spent / max(1, len(stream.alerts)), "alerts": len(stream.fired)})
            if not args.json:
                for text in worst(stream, answer, args.worst):
                    print(text)
        report[preset] = {"result": mean(results)}
        if args.oracle:
            knowledge = oracle.learn(every)
            ceilings = [partition.figures(s.fired, s.roots, oracle.answer(s, knowledge)) for s in every]
            report[preset]["ceiling"] = mean(ceilings)
        if not args.json:
            r = report[preset]["result"]
            print(
                f"\n{preset}: {len(every)} streams of {args.services} services, {r['alerts']:.0f} alerts each, ",
                end="",
            )
            print(f"{r['cpu_us']:.0f} us CPU a line for the whole stage")
            print(table(report[preset], goals.get(preset, {})), flush=True)
    if args.json:
        print(json.dumps({p: {"goal": goals.get(p, {}), **rows} for p, rows in report.items()}, indent=1))
    return 0
