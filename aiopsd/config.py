"""The configuration: frozen Structs, defaults with a reason, durations that are durations, secrets that stay secret.

One YAML file, or a folder whose *.yaml fragments are merged by top-level key (lists are joined, mappings are merged,
a scalar given twice is an error). Every error names its key. The Config of a plug-in stands beside its class; here its
part stays raw and is read by `plugin_config` when the plug-in is known.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta
from msgspec.structs import replace

from aiopsd.errors import ConfigError
from aiopsd.marks import Marked

AtLeast0 = Annotated[int, Meta(ge=0)]
AtLeast1 = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Score = Annotated[float, Meta(gt=0, lt=1)]  # of evidence: 1 is never reached
Share = Annotated[float, Meta(ge=0, le=1)]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdwy]))+")


class Duration(float):
    """Seconds, written as Prometheus does: `30s`, `5m`, `1h30m`, `7d`.

    >>> Duration.parse("1h30m")
    5400.0
    """

    @classmethod
    def parse(cls, text: object) -> "Duration":
        if text == 0 or text == "0":
            return cls(0.0)
        if not isinstance(text, str) or not _DURATION.fullmatch(text):
            raise ValueError(f"not a duration: {text!r} (write `30s`, `5m`, `1h30m`)")
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhdwy])", text)
        return cls(sum(float(number) * _UNITS[unit] for number, unit in parts))


class Secret:
    """A value that no repr, log or error shows. Written in place, as `{file: PATH}` or as `{env: NAME}`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def parse(cls, raw: object) -> "Secret":
        if isinstance(raw, str):
            return cls(raw)
        if isinstance(raw, dict) and len(raw) == 1:
            ((how, what),) = raw.items()
            if how == "file" and isinstance(what, str):
                try:
                    return cls(Path(what).read_text(encoding="utf-8").strip())
                except OSError as e:
                    raise ValueError(f"cannot read the secret's file: {e}") from None
            if how == "env" and isinstance(what, str):
                if what not in os.environ:
                    raise ValueError(f"environment variable {what} is not set")
                return cls(os.environ[what])
        raise ValueError("a secret is a text, {file: PATH} or {env: NAME}")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every part of the configuration. kw_only is not inherited by msgspec: repeat it."""


# --------------------------------------------------------------------------- the daemon


class HttpConfig(Section, frozen=True, kw_only=True):
    listen: str = "127.0.0.1:9095"  # loopback by default: there is no authentication unless a token is set
    external_url: str = ""  # what links in notifications start with; "" = http://<listen>
    route_prefix: str = ""
    token: Secret | None = None  # bearer token that writes must carry
    max_body: AtLeast1 = 32 * 1024 * 1024  # bytes after decompression; larger is 413
    max_pushes: AtLeast1 = (
        32  # request bodies in memory at once, metrics and the rest each; others wait on their sockets
    )
    commit_timeout: Duration = Duration(10.0)  # a write that is not safe by then is answered 503


class LogConfig(Section, frozen=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class JournalConfig(Section, frozen=True, kw_only=True):
    retention: Duration = Duration(7 * 86400.0)  # a week of "why was I paged" and of replay
    sync: Literal["full", "normal"] = "full"  # normal: a power cut may lose the last moments, kill -9 never does


class MetricLogConfig(Section, frozen=True, kw_only=True):
    """The local log that HTTP-pushed metrics go through."""

    partitions: AtLeast1 = 1  # more than one pays with workers > 1 only
    retention: Duration = Duration(86400.0)
    max_bytes: AtLeast1 = 8 * 1024**3
    sync: Literal["full", "normal"] = "full"


class SnapshotConfig(Section, frozen=True, kw_only=True):
    every: Duration = Duration(300.0)  # bounds the replay at start


class StoreConfig(Section, frozen=True, kw_only=True):
    retention: Duration = Duration(90 * 86400.0)  # of resolved incidents and their timelines


class SourceConfig(Section, frozen=True, kw_only=True):
    """One input log. Exactly one of `kafka`, `files` says where it is; its keys are that stream's Config."""

    name: str
    kind: Literal["metrics", "alerts", "topology", "changes"]
    format: str = ""  # "": json for metrics, prometheus for alerts, edges for topology, changes for changes
    keyed_by: Literal["service", "series", "none"] = "service"  # the others go through the local metric log, by service
    on_offset_lost: Literal["stop", "earliest"] = "earliest"  # earliest: go on and record the gap
    kafka: dict[str, Any] | None = None
    files: dict[str, Any] | None = None

    def stream(self) -> tuple[str, dict[str, Any]]:
        """(stream plug-in, its raw options)."""
        given = [(k, v) for k, v in (("kafka", self.kafka), ("files", self.files)) if v is not None]
        if len(given) != 1:
            raise ConfigError(f"source `{self.name}` needs exactly one of `kafka`, `files`", "$.sources")
        return given[0]

    def decoder(self) -> str:
        default = {"metrics": "json", "alerts": "prometheus", "topology": "edges", "changes": "changes"}
        return self.format or default[self.kind]


class ServiceRule(Section, frozen=True, kw_only=True):
    """One way to find the service of a label set: all of `match` (anchored RE2), then `service` with $name replaced."""

    match: dict[str, str] = {}
    service: str


class ServicesConfig(Section, frozen=True, kw_only=True):
    """How labels map to a service, for metrics as for alerts: rules first, then the first label that is there."""

    rules: tuple[ServiceRule, ...] = ()
    labels: tuple[str, ...] = ("service", "service_name", "app", "app_kubernetes_io_name", "deployment", "job")
    strip: tuple[str, ...] = ()  # anchored RE2 with one group: what of the label's value is the name
    aliases: dict[str, str] = {}


class EdgeRule(Section, frozen=True, kw_only=True):
    """Which series name an edge of the service graph, and by which labels. First match wins; $name is a label."""

    match: dict[str, str]  # label -> anchored RE2; __name__ is the metric
    caller: str = ""  # "": the service that the series belongs to
    callee: str = ""
    kind: str = "calls"
    callee_kind: str = ""  # what the callee is, where it is not a service: datastore, queue, node, zone, external
    confidence: Share = 0.9  # below what an operator writes: a metric knows calls, not whether they matter


class TopologyConfig(Section, frozen=True, kw_only=True):
    files: tuple[str, ...] = ()  # YAML files; always win, never age
    stale_after: Duration = Duration(86400.0)  # an edge not seen for so long no longer joins alerts
    metrics: tuple[EdgeRule, ...] = ()  # edges from the labels of metrics; before the packs' and the known ones
    known_metrics: bool = True  # read edges from service graphs of traces, from Istio and from Linkerd without a rule


# --------------------------------------------------------------------------- detection


class ThresholdRule(Section, frozen=True, kw_only=True):
    """A fixed limit on the raw value of matching series, with hysteresis and a minimum duration."""

    name: str
    match: dict[str, str] = {}  # label -> anchored RE2; __name__ is the metric
    above: float | None = None
    below: float | None = None
    clear: float | None = None  # back inside this value; None: the limit itself
    min_duration: Duration = Duration(0.0)
    severity: Literal["info", "warning", "critical"] = "warning"


class SignalRule(Section, frozen=True, kw_only=True):
    """What a metric is: its kind and the direction that harms. First match wins; before the built-in name rules."""

    match: dict[str, str] = {}
    kind: Literal["latency", "errors", "availability", "traffic", "saturation", "resource", "other"] = "other"
    harm: Literal["high", "low", "both", "none"] = "both"
    counter: bool | None = None  # None: by the name (_total, _count, _sum, _bucket)


class OnlineRule(Section, frozen=True, kw_only=True):
    """The second tier: a model on selected series, its statistic calibrated through the bank's own envelope."""

    match: dict[str, str] = {}  # label -> anchored RE2; `service` is the service that the series belongs to
    model: str = "anomaly.StandardAbsoluteDeviation"  # below the river package; or aiopsd.Shape, ...; or a plug-in's
    params: dict[str, Any] = {}
    lags: AtLeast0 = 0  # earlier samples given to the model as features x1, x2, ... beside x
    features: tuple[
        str, ...
    ] = ()  # anchored RE2 of metrics: one model for each service's together, not for each series
    by: tuple[str, ...] = ("__name__",)  # labels that name a feature; a service's series of one name are averaged
    every: Duration = Duration(60.0)  # interval of the vectors that `features` makes
    max_series: AtLeast1 = 1000  # the first series that match, or services
    cost: Positive = 50.0  # CPU microseconds a sample, or a vector, as the budget counts it
    doubt: Share = 1.0  # what the bank's evidence is worth while the model says nothing: below 1, fewer alarms
    alone: bool = False  # a verdict by itself is an event; else it only raises what the bank says within an hour


class ModelRule(Section, frozen=True, kw_only=True):
    """A watched model: the series that carry its error bits (0 or 1) or its input features."""

    name: str
    errors: dict[str, str] = {}  # matchers of the error-bit series, watched for a rise of their rate
    inputs: dict[str, str] = {}  # matchers of its input series, watched for changes of level and spread


class DriftConfig(Section, frozen=True, kw_only=True):
    enabled: bool = True
    models: tuple[ModelRule, ...] = ()
    error_limit: Positive = 11.0  # log likelihood ratio that a rise of an error rate must pass; higher: later, surer


class PolicyRule(Section, frozen=True, kw_only=True):
    """What counts as normal for some series, and for how long. First match wins; what is left out is as in `detect`."""

    match: dict[str, str]  # label -> anchored RE2; `service` is the service that the series belongs to
    growth: NotNegative | None = None  # is a repeat an incident? near 0: yes, each time
    adopt_after: Duration | None = None  # follow or resist a level shift?
    memory: Duration | None = None
    warmup: Duration | None = None
    no_data: Duration | None = None  # 0: silence of these series is no event
    flatline: Duration | None = None
    threshold: Score | None = None  # these three: of the series with which an event begins
    min_duration: Duration | None = None
    resolve_after: Duration | None = None


WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class MaintenanceRule(Section, frozen=True, kw_only=True):
    """Planned work: samples of these series in it are neither scored nor learned, and their silence is no event.

    Once, from `start` to `end`; or each week, on `days`, `from` a time of day `to` another (of the next day, when it is
    not later).
    """

    match: dict[str, str]  # label -> anchored RE2; `service` is the service that the series belongs to
    name: str = ""
    start: datetime | None = None  # with its zone: 2026-01-31T22:00:00Z
    end: datetime | None = None
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()  # empty: every day
    from_: str | int | None = msgspec.field(default=None, name="from")  # "22:00"
    to: str | int | None = None
    zone: str = "UTC"  # of `from` and `to`, by its IANA name


class DetectConfig(Section, frozen=True, kw_only=True):
    threshold: Score = 0.5  # of the score; one meaning for every detector
    min_duration: Duration = Duration(0.0)  # the score must stay that high for so long before it is an event
    resolve_after: Duration = Duration(900.0)  # quiet for so long ends the event
    memory: Duration = Duration(0.0)  # half-life of the envelopes; 0: 16,000 samples, at least 14 days
    warmup: Duration = Duration(3600.0)  # a new series says nothing for so long, nor before 40 samples
    growth: NotNegative = 1.0  # largest widening of an envelope by one sample, in widths: is a repeat an incident?
    no_data: Duration = Duration(0.0)  # 0: off; silent for so long against its source's watermark is an event
    flatline: Duration = Duration(0.0)  # 0: off; a series that used to move and has not for so long is an event
    adopt_after: Duration | None = None  # a level that lasts so long is the new normal, its event ends; unset: hours
    join: Literal["service", "series"] = "service"
    evict_after: Duration = Duration(86400.0)  # silent for so long and for its lifetime: forgotten when room is scarce
    policies: tuple[PolicyRule, ...] = ()
    maintenance: tuple[MaintenanceRule, ...] = ()
    signals: tuple[SignalRule, ...] = ()
    thresholds: tuple[ThresholdRule, ...] = ()
    online: tuple[OnlineRule, ...] = ()
    online_budget: NotNegative = (
        0.1  # share of a core that all models of a partition may take; the newest series do without
    )
    drift: DriftConfig = DriftConfig()


# --------------------------------------------------------------------------- correlation


class CorrelateConfig(Section, frozen=True, kw_only=True):
    resolve_timeout: Duration = Duration(300.0)  # Alertmanager's default, for alerts without endsAt
    hops: AtLeast0 = 2  # graph distance that joins
    resolve_after: Duration = Duration(300.0)  # an incident resolves when nothing fired for so long
    reopen_within: Duration = Duration(900.0)  # the same trouble again within this reopens instead of opening
    retention: Duration = Duration(86400.0)  # of resolved alerts and incidents in the stage's memory
    change_window: Duration = Duration(3600.0)  # a change so long before the onset is a candidate cause


class RetrainingConfig(Section, frozen=True, kw_only=True):
    cooldown: Duration = Duration(6 * 3600.0)  # per subject
    budget: AtLeast0 = 10  # requests a day over all subjects
    trainers: tuple[dict[str, Any], ...] = ()  # each: {<kind>: {options}}


# --------------------------------------------------------------------------- routing, in Alertmanager's shape


class RouteConfig(Section, frozen=True, kw_only=True):
    """A node of the routing tree. Unset intervals and group_by are inherited; `receiver` too."""

    receiver: str = ""
    group_by: tuple[str, ...] | None = None  # None at the root: by incident. ["..."]: every label
    matchers: tuple[str, ...] = ()
    group_wait: Duration | None = None
    group_interval: Duration | None = None
    repeat_interval: Duration | None = None
    page_anomalies: bool | None = None  # True: an incident of anomalies alone is notified too; root default False
    continue_: bool = msgspec.field(default=False, name="continue")
    routes: tuple["RouteConfig", ...] = ()


class InhibitRule(Section, frozen=True, kw_only=True):
    source_matchers: tuple[str, ...] = ()
    target_matchers: tuple[str, ...] = ()
    equal: tuple[str, ...] = ()
    name: str = ""


# --------------------------------------------------------------------------- rule packs


class AlertFamily(Section, frozen=True, kw_only=True):
    """What alerts of these labels are in a story: a symptom, a cause, something that is full, or noise.

    Noise opens and joins no incident; it is still kept, shown and routed (an alert that always fires on purpose).
    """

    match: dict[str, str]
    role: Literal["symptom", "cause", "saturation", "noise"]


class Enrichment(Section, frozen=True, kw_only=True):
    """Annotations for alerts of these labels: `$name` is a label; one that names an absent label is left out."""

    match: dict[str, str] = {}
    annotations: dict[str, str]


class RulePack(Section, frozen=True, kw_only=True):
    """A pack's rules.yaml: what is known of one exporter or one family of alerts. Every rule is RE2 on labels."""

    description: str = ""
    signals: tuple[SignalRule, ...] = ()  # after the user's own, before the built-in name rules
    services: tuple[ServiceRule, ...] = ()  # after the user's own
    alerts: tuple[AlertFamily, ...] = ()
    suppress: tuple[InhibitRule, ...] = ()
    enrich: tuple[Enrichment, ...] = ()
    edges: tuple[EdgeRule, ...] = ()  # after the user's own topology.metrics


class PackText(Section, frozen=True, kw_only=True):
    """A rule pack as it was read, word for word: decisions are a function of the configuration's text."""

    name: str
    file: str
    text: str


class DeliveryConfig(Section, frozen=True, kw_only=True):
    timeout: Duration = Duration(10.0)  # of one attempt
    give_up_after: Duration = Duration(86400.0)  # then the row is `failed`, counted and shown
    max_backoff: Duration = Duration(300.0)
    rate: Positive = 2.0  # requests a second per destination: PagerDuty documents 120 a minute, Slack 1 a second


class Config(Section, frozen=True, kw_only=True):
    data_dir: str = "aiopsd-data"
    workers: AtLeast0 = 0
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()
    journal: JournalConfig = JournalConfig()
    metric_log: MetricLogConfig = MetricLogConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    store: StoreConfig = StoreConfig()
    sources: tuple[SourceConfig, ...] = ()
    services: ServicesConfig = ServicesConfig()
    topology: TopologyConfig = TopologyConfig()
    rules: tuple[str, ...] = ()  # folders of rule packs
    packs: tuple[PackText, ...] = ()  # what stood in those folders; filled in when the configuration is read
    detect: DetectConfig = DetectConfig()
    correlate: CorrelateConfig = CorrelateConfig()
    retraining: RetrainingConfig = RetrainingConfig()
    route: RouteConfig = RouteConfig()
    receivers: tuple[dict[str, Any], ...] = ()  # {name: ..., <kind>_configs: [{...}]}
    inhibit_rules: tuple[InhibitRule, ...] = ()
    delivery: DeliveryConfig = DeliveryConfig()


T = TypeVar("T")


class BrokenPack(ConfigError):
    """A rule pack is wrong: the message names its own file and line."""


def _dec_hook(kind: type, raw: object) -> object:
    if kind in (Duration, Secret):
        return kind.parse(raw)
    raise NotImplementedError(kind)  # msgspec's protocol for "not mine"


def plugin_config(kind: type[T], raw: object, path: str) -> T:
    """Read the raw options of a plug-in into its Config.

    Raises:
        ConfigError: names the key below `path`.
    """
    try:
        return msgspec.convert(raw, kind, dec_hook=_dec_hook)
    except msgspec.ValidationError as e:
        text, _, where = str(e).partition(" - at `$")
        raise ConfigError(text, path + where.rstrip("`")) from None


def receivers(config: Config) -> Iterator[tuple[str, str, int, dict[str, Any], str]]:
    """(receiver, kind, index, raw options, path) of every integration, in order."""
    for i, receiver in enumerate(config.receivers):
        for key, items in receiver.items():
            if key == "name":
                continue
            path = f"$.receivers[{i}].{key}"
            if not key.endswith("_configs"):
                raise ConfigError(f"unknown field `{key}` (integrations end in _configs)", path)
            if not isinstance(items, list):
                raise ConfigError("expected a list", path)
            for j, raw in enumerate(items):
                if not isinstance(raw, dict):
                    raise ConfigError("expected a mapping", f"{path}[{j}]")
                yield receiver["name"], key.removesuffix("_configs"), j, raw, f"{path}[{j}]"


def trainers(config: Config) -> Iterator[tuple[str, int, dict[str, Any], str]]:
    """(kind, index, raw options, path) of every trainer."""
    for i, item in enumerate(config.retraining.trainers):
        path = f"$.retraining.trainers[{i}]"
        if len(item) != 1:
            raise ConfigError("a trainer is one mapping {<kind>: {options}}", path)
        ((kind, raw),) = item.items()
        yield kind, i, raw or {}, f"{path}.{kind}"


def load(text: str) -> Config:
    """Read and check a configuration.

    Raises:
        ConfigError: not YAML, a key given twice, unknown key, wrong type or a broken rule between keys; `path` says
            where.
    """
    return _checked(Marked(text, "configuration").value)


def _checked(raw: Any) -> Config:
    config = _poured(plugin_config(Config, raw or {}, "$"))
    _check(config)
    return config


@lru_cache(maxsize=64)
def rule_pack(pack: PackText) -> RulePack:
    """The rules of a pack.

    Raises:
        ConfigError: names the pack, its file and the line.
    """
    try:
        found: RulePack = Marked(pack.text, pack.file).convert(RulePack)
    except ConfigError as e:
        raise BrokenPack(f"rule pack `{pack.name}`: {e}", e.path) from None
    return found


def _poured(config: Config) -> Config:
    """The configuration with what its packs know, after what the user says himself."""
    packs = [(pack.name, rule_pack(pack)) for pack in config.packs]
    names = [name for name, _ in packs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two rule packs are named `{name}`", "$.rules")
    if not packs:
        return config
    signals = [rule for _, pack in packs for rule in pack.signals]
    services = [rule for _, pack in packs for rule in pack.services]
    edges = [rule for _, pack in packs for rule in pack.edges]
    inhibit = [
        replace(rule, name=f"{name}: {rule.name or i}") for name, pack in packs for i, rule in enumerate(pack.suppress)
    ]
    return replace(
        config,
        detect=replace(config.detect, signals=(*config.detect.signals, *signals)),
        services=replace(config.services, rules=(*config.services.rules, *services)),
        topology=replace(config.topology, metrics=(*config.topology.metrics, *edges)),
        inhibit_rules=(*config.inhibit_rules, *inhibit),
    )


def _check(config: Config) -> None:
    names = set()
    for i, receiver in enumerate(config.receivers):
        name = receiver.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError("a receiver needs a `name`", f"$.receivers[{i}].name")
        if name in names:
            raise ConfigError(f"receiver `{name}` is defined twice", f"$.receivers[{i}].name")
        names.add(name)
    list(receivers(config))
    list(trainers(config))

    def walk(route: RouteConfig, path: str) -> None:
        if route.receiver and route.receiver not in names:
            raise ConfigError(f"unknown receiver `{route.receiver}`", f"{path}.receiver")
        for i, sub in enumerate(route.routes):
            walk(sub, f"{path}.routes[{i}]")

    walk(config.route, "$.route")
    seen: set[str] = set()
    for i, source in enumerate(config.sources):
        if source.name in seen:
            raise ConfigError(f"source `{source.name}` is defined twice", f"$.sources[{i}].name")
        seen.add(source.name)
        source.stream()


def read(path: Path) -> tuple[Config, str]:
    """(configuration, its text) of a file, or of a folder of *.yaml fragments merged in name order.

    The text is complete: `load(text)` gives the same configuration where the folders of `rules` are not at hand.

    Raises:
        ConfigError: unreadable, or any error of `load`.
    """
    try:
        if not path.is_dir():
            text = path.read_text(encoding="utf-8")
            marked = Marked(text, str(path))
            return _complete(marked.value, text, {}, marked)
        merged: dict[str, Any] = {}
        told: dict[str, Marked | None] = {}  # top-level key -> the fragment it stands in; None: in several
        for part in sorted(path.glob("*.yaml")):
            marked = Marked(part.read_text(encoding="utf-8"), str(part))
            raw = marked.value or {}
            if not isinstance(raw, dict):
                raise marked.error("expected a mapping at the top", "$")
            for key, value in raw.items():
                told[key] = None if key in told else marked
                if key not in merged:
                    merged[key] = value
                elif isinstance(value, list) and isinstance(merged[key], list):
                    merged[key] = merged[key] + value
                elif isinstance(value, dict) and isinstance(merged[key], dict):
                    twice = sorted(set(value) & set(merged[key]))
                    if twice:
                        raise marked.error(f"`{twice[0]}` is given in another fragment too", f"$.{key}.{twice[0]}")
                    merged[key] = merged[key] | value
                else:
                    raise marked.error(f"`{key}` is given in another fragment too", f"$.{key}")
        return _complete(merged, yaml.safe_dump(merged, sort_keys=True), told, None)
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise ConfigError(f"cannot read {path}: not UTF-8: {e}") from None


def _complete(raw: Any, text: str, told: dict[str, Marked | None], whole: Marked | None) -> tuple[Config, str]:
    """(configuration, text) with the packs of `rules` in it; one that holds its packs already is taken as it is.

    What is wrong is told with the line of the fragment that its top-level key stands in, or of the `whole` file.
    """
    try:
        if isinstance(raw, dict) and raw.get("rules") and not raw.get("packs"):
            plugin_config(Config, raw, "$")
            packs = []
            for i, folder in enumerate(raw["rules"]):
                packs += [read_pack(found) for found in pack_folders(Path(folder), f"$.rules[{i}]")]
            raw = raw | {"packs": msgspec.to_builtins(packs)}
            text = yaml.safe_dump(raw, sort_keys=True, allow_unicode=True)
        return _checked(raw), text
    except ConfigError as e:
        raise _located(e, told, whole) from None


def _located(e: ConfigError, told: Mapping[str, Marked | None], whole: Marked | None) -> ConfigError:
    """The error with the file and the line of its key, where a file has it."""
    if isinstance(e, BrokenPack) or re.match(r"\S+:\d+: ", str(e)):
        return e  # names a file of its own: a pack, a topology
    key = re.split(r"[.\[]", e.path.removeprefix("$."), maxsplit=1)[0]
    if key == "$" and (named := re.search(r"unknown field `([^`]+)`", str(e))):
        key = named.group(1)
    marked = whole or told.get(key)
    return e if marked is None else marked.error(str(e), e.path)


def located(path: Path, error: ConfigError) -> ConfigError:
    """An error that came up when the configuration of `path` was used, with the file and the line of its key."""
    try:
        if not path.is_dir():
            return _located(error, {}, Marked(path.read_text(encoding="utf-8"), str(path)))
        told: dict[str, Marked | None] = {}
        for part in sorted(path.glob("*.yaml")):
            marked = Marked(part.read_text(encoding="utf-8"), str(part))
            told |= {key: None if key in told else marked for key in marked.value or {}}
        return _located(error, told, None)
    except (OSError, ConfigError):
        return error


def pack_folders(folder: Path, path: str = "$.rules") -> list[Path]:
    """The folder itself when it is a pack (it holds rules.yaml), else the packs in it, by name.

    Raises:
        ConfigError: there is none; names the key `path`.
    """
    if (folder / "rules.yaml").is_file():
        return [folder]
    found = sorted(file.parent for file in folder.glob("*/rules.yaml"))
    if not found:
        raise ConfigError(f"no rule pack: neither {folder}/rules.yaml nor {folder}/*/rules.yaml is a file", path)
    return found


def read_pack(folder: Path) -> PackText:
    """The text of a pack; its name is the folder's.

    Raises:
        ConfigError: unreadable.
    """
    file = folder / "rules.yaml"
    try:
        return PackText(name=folder.resolve().name, file=str(file), text=file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read {file}: {e}", "$.rules") from None


def config_hash(text: str) -> str:
    """16 hex digits of the configuration's text: under which rules a decision was made."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
