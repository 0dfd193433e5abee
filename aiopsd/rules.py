"""Knowledge as data: what rule packs know of alerts, the check of a pack, and the format of its tests.

What a pack says of signals, services and suppression is poured into the sections of the configuration that have it
already (`config.load`); what it says of alerts (their role in a story, annotations to add) is answered here. Packs
sharpen: an alert or a metric that no pack knows is handled as if there were none.
"""

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from msgspec import field

from aiopsd.config import (
    BrokenPack,
    Duration,
    PackText,
    RulePack,
    Section,
    ServicesConfig,
    plugin_config,
    rule_pack,
)
from aiopsd.errors import ConfigError
from aiopsd.marks import Marked
from aiopsd.matchers import Match, conditions
from aiopsd.model import Labels
from aiopsd.services import ServiceMapper, fill, references

CACHE_LIMIT = 65_536  # label combinations; beyond it the caches start afresh, which costs only time
NOISE = "noise"


def check(pack: PackText) -> RulePack:
    """The pack, with every expression of it tried.

    Raises:
        ConfigError: names the pack, its file, the line and the key.
    """
    rules = rule_pack(pack)
    try:
        _try(rules)
    except ConfigError as e:
        wrong = Marked(pack.text, pack.file).error(str(e), e.path)
        raise BrokenPack(f"rule pack `{pack.name}`: {wrong}", e.path) from None
    return rules


def _try(rules: RulePack) -> None:
    for i, signal in enumerate(rules.signals):
        Match(signal.match, f"$.signals[{i}].match")
    for i, service in enumerate(rules.services):
        try:
            ServiceMapper(ServicesConfig(rules=(service,)))
        except ConfigError as e:
            path = e.path.replace("$.services.rules[0]", f"$.services[{i}]")
            raise ConfigError(str(e).removesuffix(f" - at `{e.path}`"), path) from None
    for i, family in enumerate(rules.alerts):
        Match(family.match, f"$.alerts[{i}].match")
    for i, rule in enumerate(rules.suppress):
        for side in ("source_", "target_"):
            if not conditions(rule, f"$.suppress[{i}]", side):
                raise ConfigError(f"`{side}matchers` is empty: it would mean every alert", f"$.suppress[{i}]")
    for i, edge in enumerate(rules.edges):
        Match(edge.match, f"$.edges[{i}].match")
        if not edge.caller and not edge.callee:
            raise ConfigError("an edge needs `caller` or `callee`", f"$.edges[{i}]")
    for i, more in enumerate(rules.enrich):
        Match(more.match, f"$.enrich[{i}].match")


class Rules:
    """What the packs of a configuration know of an alert; the first pack, and the first rule of it, that knows wins.

    Raises:
        ConfigError: a pack is broken; names the pack, its file and the line.
    """

    def __init__(self, packs: Sequence[PackText]) -> None:
        known = [(pack.name, check(pack)) for pack in packs]
        self._families = [(name, Match(f.match), f.role) for name, pack in known for f in pack.alerts]
        self._enrich = [
            (Match(e.match), [(key, text, references(text)) for key, text in sorted(e.annotations.items())])
            for _, pack in known
            for e in pack.enrich
        ]
        self._roles: dict[str, tuple[str, str]] = {}  # alertname -> (role, pack), while no rule asks for more
        self._by_name_only = all(set(f.match) <= {"alertname"} for _, pack in known for f in pack.alerts)
        self._added: dict[tuple[tuple[str, str], ...], Labels] = {}

    def known(self, labels: Mapping[str, str]) -> tuple[str, str]:
        """(role, pack that says so) of an alert with these labels; ("", "") when no pack knows it."""
        if not self._families:
            return "", ""
        if not self._by_name_only:
            return self._find(labels)
        name = labels.get("alertname", "")
        found = self._roles.get(name)
        if found is None:
            if len(self._roles) >= CACHE_LIMIT:
                self._roles.clear()
            found = self._roles[name] = self._find(labels)
        return found

    def role(self, labels: Mapping[str, str]) -> str:
        """symptom | cause | saturation | noise, or "" when no pack knows an alert with these labels."""
        return self.known(labels)[0]

    def _find(self, labels: Mapping[str, str]) -> tuple[str, str]:
        return next(((role, pack) for pack, match, role in self._families if match(labels)), ("", ""))

    def enriched(self, labels: Mapping[str, str], annotations: Labels) -> Labels:
        """The annotations, and those that packs add; what the sender says is never overwritten."""
        if not self._enrich:
            return annotations
        key = tuple(sorted(labels.items()))
        added = self._added.get(key)
        if added is None:
            if len(self._added) >= CACHE_LIMIT:
                self._added.clear()
            added = self._added[key] = self._add(labels)
        return {**added, **{k: v for k, v in annotations.items() if v or k not in added}} if added else annotations

    def _add(self, labels: Mapping[str, str]) -> Labels:
        added: Labels = {}
        for match, annotations in self._enrich:
            if not match(labels):
                continue
            for key, text, names in annotations:
                if key not in added and all(labels.get(name) for name in names):
                    link = text.startswith(("http://", "https://"))
                    values = {n: quote(labels[n], safe="") if link else labels[n] for n in names}
                    added[key] = fill(text, values)
        return added


# --------------------------------------------------------------------------- tests of a pack


class GivenSeries(Section, frozen=True, kw_only=True):
    """A series as promtool's tests write it, and its values: one per interval."""

    series: str  # name{label="value", ...}
    values: str | list[float | None]  # promtool's notation, see `values`; or the values themselves


class GivenAlert(Section, frozen=True, kw_only=True):
    """An alert that fires `at` so long after the beginning; with `until` it resolves then."""

    labels: Labels
    annotations: Labels = field(default_factory=dict)
    at: Duration = Duration(0.0)
    until: Duration | None = None


class Anomalous(Section, frozen=True, kw_only=True):
    """An anomaly of this service in which this metric takes part; what is left out may be anything."""

    service: str = ""
    metric: str = ""
    direction: Literal["", "high", "low"] = ""
    kind: str = ""


class AlertSays(Section, frozen=True, kw_only=True):
    """What is known of each alert with these labels (anchored RE2)."""

    match: Labels
    role: str | None = None
    service: str | None = None
    annotations: Labels = field(default_factory=dict)


class Expect(Section, frozen=True, kw_only=True):
    """What must come of a test. Only what is written is checked."""

    must_fire: tuple[Anomalous, ...] = ()
    must_stay_silent: tuple[Anomalous, ...] = ()
    incidents: int | None = None
    root: str | None = None  # of the incident; of every one, if several
    runbook: str | None = None
    suppressed: tuple[Labels, ...] = ()  # matchers: alerts that fire and of which no page tells
    told: tuple[Labels, ...] = ()  # matchers: alerts of which a page tells
    alerts: tuple[AlertSays, ...] = ()
    edges: tuple[str, ...] = ()  # "caller kind callee": what the graph has at the end


class PackTest(Section, frozen=True, kw_only=True):
    """Given series, alerts and a topology in virtual time, what must be told and what must not."""

    name: str
    interval: Duration = Duration(60.0)
    topology: dict[str, Any] = field(default_factory=dict)  # as in a topology file
    series: tuple[GivenSeries, ...] = ()
    alerts: tuple[GivenAlert, ...] = ()
    expect: Expect


class PackTests(Section, frozen=True, kw_only=True):
    """A pack's tests.yaml. `config` holds sections of the configuration that its tests need."""

    config: dict[str, Any] = field(default_factory=dict)
    tests: tuple[PackTest, ...] = ()


def load_tests(text: str, file: str) -> tuple[PackTests, Marked]:
    """The tests of a pack, and the lines that they stand on.

    Raises:
        ConfigError: names file and line.
    """
    marked = Marked(text, file)
    try:
        tests = plugin_config(PackTests, marked.value or {}, "$")
    except ConfigError as e:
        raise marked.error(str(e), e.path) from None
    for i, test in enumerate(tests.tests):
        for j, series in enumerate(test.series):
            try:
                parse_series(series.series)
            except ValueError as e:
                raise marked.error(str(e), f"$.tests[{i}].series[{j}].series") from None
            try:
                values(series.values, "")
            except ValueError as e:
                raise marked.error(str(e), f"$.tests[{i}].series[{j}].values") from None
        if test.expect == Expect():
            raise marked.error("this test expects nothing: it cannot fail", f"$.tests[{i}]")
    return tests, marked


_SERIES = re.compile(r"\s*([a-zA-Z_:][\w:.]*)\s*(?:\{(.*)\})?\s*")
_PAIR = re.compile(r'\s*([\w.]+)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_NUMBER = r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_ITEM = re.compile(rf"(_|{_NUMBER})?(?:([+-])({_NUMBER}))?(?:~({_NUMBER}))?(?:x(\d+))?")


def parse_series(text: str) -> Labels:
    """Labels of `name{label="value", ...}`, `__name__` among them.

    Raises:
        ValueError: it is not written so.

    >>> parse_series('up{job="api"}')
    {'__name__': 'up', 'job': 'api'}
    """
    found = _SERIES.fullmatch(text)
    if not found:
        raise ValueError(f'not a series: {text!r} (write name{{label="value"}})')
    labels = {"__name__": found.group(1)}
    rest = found.group(2) or ""
    at = 0
    while rest[at:].strip():
        pair = _PAIR.match(rest, at)
        if not pair:
            raise ValueError(f"not a label: {rest[at:]!r} of {text!r}")
        labels[pair.group(1)] = re.sub(r"\\(.)", r"\1", pair.group(2))
        at = pair.end()
    return labels


def values(given: str | Sequence[float | None], seed: str) -> list[float | None]:
    """The values of a series, None where there is no sample.

    As promtool writes them: `3`, `1+2x3` (1 3 5 7), `1-2x3`, `1x3` (four times 1), `_` and `_x3` (one, three gaps).
    Ours beyond it: `100~5x3` adds noise of that standard deviation, to each step where there are steps (`0+60~5x9`),
    the same noise for the same `seed`; `+60x3` (`+-60x3`) goes on from the last value by three steps of 60 (of -60).

    Raises:
        ValueError: names the item that is not written so.

    >>> values("1+2x2 _ 5", "")
    [1.0, 3.0, 5.0, None, 5.0]
    >>> values("0+10x1 +50x2", "")
    [0.0, 10.0, 60.0, 110.0]
    """
    if not isinstance(given, str):
        return list(given)
    chance = random.Random(seed)
    out: list[float | None] = []
    last = 0.0
    for item in given.split():
        found = _ITEM.fullmatch(item)
        first, sign, size, noise, times = found.groups() if found else (None,) * 5
        if found is None or (first is None and not sign):
            raise ValueError(f"not values: {item!r} (write `3`, `1+2x9`, `100~5x9`, `+60x9` or `_x3`)")
        if first == "_":
            if sign or noise:
                raise ValueError(f"not values: {item!r} (a gap has no step)")
            out += [None] * int(times or 1)
            continue
        step = float(size or 0.0) * (-1.0 if sign == "-" else 1.0)
        spread = float(noise or 0.0)
        steps = int(times or 0)
        if first is not None:
            last = float(first)
            out.append(last if step else last + chance.gauss(0.0, spread))
        elif not times:
            raise ValueError(f"not values: {item!r} (how many steps? write {item}x9)")
        for _ in range(steps):
            if step:
                last += step + chance.gauss(0.0, spread)
                out.append(last)
            else:
                out.append(last + chance.gauss(0.0, spread))
    return out
