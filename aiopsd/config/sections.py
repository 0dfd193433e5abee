"""Every section of the configuration as a frozen Struct: the keys, their defaults, and the reason of a default.

docs/reference/configuration.md is made of this module: a comment behind a key is what it says there.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from aiopsd.config.values import Duration, Secret
from aiopsd.errors import ConfigError

AtLeast0 = Annotated[int, Meta(ge=0)]
AtLeast1 = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Score = Annotated[float, Meta(gt=0, lt=1)]  # of evidence: 1 is never reached
Share = Annotated[float, Meta(ge=0, le=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every part of the configuration. kw_only is not inherited by msgspec: repeat it."""


# --------------------------------------------------------------------------- the daemon


class HttpConfig(Section, frozen=True, kw_only=True):
    listen: str = "127.0.0.1:9095"  # loopback by default: there is no authentication unless a token is set
    external_url: str = ""  # what links in notifications start with; "" = http://<listen>
    route_prefix: str = ""  # everything lives below it: /ops
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
    retention: Duration = Duration(86400.0)  # of what was scored; it is read again after a crash
    max_bytes: AtLeast1 = (
        8 * 1024**3
    )  # what was scored goes sooner to stay below; when nothing else is left, a push is 503
    sync: Literal["full", "normal"] = "full"  # as of `journal`


class SnapshotConfig(Section, frozen=True, kw_only=True):
    every: Duration = Duration(300.0)  # bounds the replay at start


class StoreConfig(Section, frozen=True, kw_only=True):
    retention: Duration = Duration(90 * 86400.0)  # of resolved incidents and their timelines


class SourceConfig(Section, frozen=True, kw_only=True):
    """One input log. Exactly one of `kafka`, `files` says where it is; its keys are that stream's Config."""

    name: str  # of its positions and metrics: another name begins anew
    kind: Literal["metrics", "alerts", "topology", "changes"]  # what its records are
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
    service: str  # with $label for the value of a label


class ServicesConfig(Section, frozen=True, kw_only=True):
    """How labels map to a service, for metrics as for alerts: rules first, then the first label that is there."""

    rules: tuple[ServiceRule, ...] = ()
    labels: tuple[str, ...] = ("service", "service_name", "app", "app_kubernetes_io_name", "deployment", "job")
    strip: tuple[str, ...] = ()  # anchored RE2 with one group: what of the label's value is the name
    aliases: dict[str, str] = {}  # a name that is found -> the one that is meant


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

    name: str  # stands in the event
    match: dict[str, str] = {}  # label -> anchored RE2; __name__ is the metric
    above: float | None = None  # at least one of these two
    below: float | None = None
    clear: float | None = None  # back inside this value; None: the limit itself
    min_duration: Duration = Duration(0.0)  # beyond the limit for so long before it is an event
    severity: Literal["info", "warning", "critical"] = "warning"


class SignalRule(Section, frozen=True, kw_only=True):
    """What a metric is: its kind and the direction that harms. First match wins; before the built-in name rules."""

    match: dict[str, str] = {}
    kind: Literal["latency", "errors", "availability", "traffic", "saturation", "resource", "other"] = "other"
    harm: Literal["high", "low", "both", "none"] = "both"  # none: not watched
    counter: bool | None = None  # None: by the name (_total, _count, _sum, _bucket)


class OnlineRule(Section, frozen=True, kw_only=True):
    """The second tier: a model on selected series, its statistic calibrated through the bank's own envelope."""

    match: dict[str, str] = {}  # label -> anchored RE2; `service` is the service that the series belongs to
    model: str = "anomaly.StandardAbsoluteDeviation"  # below the river package; or aiopsd.Shape, ...; or a plug-in's
    params: dict[str, Any] = {}  # the model's own
    lags: AtLeast0 = 0  # earlier samples given to the model as features x1, x2, ... beside x
    features: tuple[
        str, ...
    ] = ()  # anchored RE2 of metrics: one model for each service's together, not for each series
    by: tuple[str, ...] = ("__name__",)  # labels that name a feature; a service's series of one name are averaged
    every: Duration = Duration(60.0)  # interval of the vectors that `features` makes
    max_series: AtLeast1 = 1000  # the first series that match, or services
    cost: Positive = 50.0  # CPU microseconds a sample, or a vector, as the budget counts it
    doubt: Share = 1.0  # what the bank's evidence is worth while the model says nothing: below 1, fewer alarms
    alone: bool = False  # a verdict that is rare enough is an event by itself; else it only raises what the bank says


class ModelRule(Section, frozen=True, kw_only=True):
    """A watched model: the series that carry its error bits (0 or 1) or its input features."""

    name: str  # of the model, as trainers know it
    errors: dict[str, str] = {}  # matchers of the error-bit series, watched for a rise of their rate
    inputs: dict[str, str] = {}  # matchers of its input series, watched for changes of level and spread


class DriftConfig(Section, frozen=True, kw_only=True):
    enabled: bool = True
    models: tuple[ModelRule, ...] = ()  # whose error bits and inputs are watched
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
    from_: str | None = msgspec.field(default=None, name="from")  # 22:00
    to: str | None = None
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
    join: Literal["service", "series"] = "service"  # what has one event: a service with all its series, or each
    evict_after: Duration = Duration(86400.0)  # silent for so long and for its lifetime: forgotten when room is scarce
    policies: tuple[PolicyRule, ...] = ()  # what is normal, per match
    maintenance: tuple[MaintenanceRule, ...] = ()  # planned work
    signals: tuple[SignalRule, ...] = ()  # which direction harms, per match
    thresholds: tuple[ThresholdRule, ...] = ()  # fixed limits beside what is learned
    online: tuple[OnlineRule, ...] = ()  # models of the second tier
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

    receiver: str = ""  # unset at the root: nobody is told
    group_by: tuple[str, ...] | None = None  # None at the root: by incident. ["..."]: every label
    matchers: tuple[str, ...] = ()  # Alertmanager's, all must match: service="db"
    match: dict[str, str] = {}  # deprecated, as in Alertmanager: {service: db} is the matcher service="db"
    match_re: dict[str, str] = {}  # deprecated: {service: db.*} is the matcher service=~"db.*"
    group_wait: Duration | None = None  # after the first alert; root default 30s
    group_interval: Duration | None = None  # between two messages of a group; root default 5m
    repeat_interval: Duration | None = None  # told again though nothing changed; root default 4h
    page_anomalies: bool | None = None  # True: an incident of anomalies alone is notified too; root default False
    mute_time_intervals: tuple[str, ...] = ()  # quiet while one of them holds; not inherited, not at the root
    active_time_intervals: tuple[str, ...] = ()  # quiet while none of them holds; not inherited, not at the root
    continue_: bool = msgspec.field(default=False, name="continue")
    routes: tuple["RouteConfig", ...] = ()  # the first that matches takes the alert


class TimeRange(Section, frozen=True, kw_only=True):
    """Of a day, the end excluded; it does not cross midnight."""

    start_time: str  # 22:30
    end_time: str  # up to 24:00


class TimeInterval(Section, frozen=True, kw_only=True):
    """A part of the calendar: of every kind that is given, one range must hold. `a:b` is a range with both ends."""

    times: tuple[TimeRange, ...] = ()
    weekdays: tuple[str, ...] = ()  # saturday, monday:friday; a week begins on sunday
    days_of_month: tuple[str | int, ...] = ()  # 1, 1:7; below zero from the end: -3:-1
    months: tuple[str | int, ...] = ()  # 1:3, may:august
    years: tuple[str | int, ...] = ()
    location: str = "UTC"  # the zone of all of it, by its IANA name


class TimeIntervals(Section, frozen=True, kw_only=True):
    """A name for parts of the calendar, which routes may be muted in, or active in."""

    name: str
    time_intervals: tuple[TimeInterval, ...] = ()


class InhibitRule(Section, frozen=True, kw_only=True):
    source_matchers: tuple[str, ...] = ()  # an alert that fires and matches these
    target_matchers: tuple[str, ...] = ()  # keeps those quiet that match these
    source_match: dict[str, str] = {}  # deprecated, as `match` of a route
    source_match_re: dict[str, str] = {}
    target_match: dict[str, str] = {}
    target_match_re: dict[str, str] = {}
    equal: tuple[str, ...] = ()  # and have the same values of these labels
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
    data_dir: str = "aiopsd-data"  # journal, store, metric log and snapshots; relative to where it is started
    workers: AtLeast0 = 0  # processes for detection beside the daemon; 0: within it
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
    time_intervals: tuple[TimeIntervals, ...] = ()
    mute_time_intervals: tuple[TimeIntervals, ...] = ()  # more of them: their name in older Alertmanagers
    delivery: DeliveryConfig = DeliveryConfig()
