"""Every Prometheus metric of the daemon, constructed with a registry; the only place that names one.

Names are `aiopsd_<noun>_<unit>[_total]`, each with its unit and help; docs/reference/metrics.md is made from this file
and a test holds them together. The few `alertmanager_*` names are those that mixins and karma read.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """One attribute per metric. Build one per daemon, with its own registry: tests never share state."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = r = registry or CollectorRegistry()
        # input
        self.records = Counter("aiopsd_ingested_records", "Records read from an input log.", ["source"], registry=r)
        self.samples = Counter("aiopsd_ingested_samples", "Metric samples scored.", ["source"], registry=r)
        self.alerts = Counter("aiopsd_ingested_alerts", "Alerts taken into the journal.", ["source"], registry=r)
        self.rejects = Counter(
            "aiopsd_rejected_items", "Samples, alerts or records refused, by reason.", ["source", "reason"], registry=r
        )
        self.lag = Gauge(
            "aiopsd_source_lag_records",
            "Records between our position and the end of the log.",
            ["source", "partition"],
            registry=r,
        )
        self.offset_lost = Counter(
            "aiopsd_source_offset_lost", "Times a log no longer held the offset we stood at.", ["source"], registry=r
        )
        self.dead_letters = Counter(
            "aiopsd_dead_letter_records", "Records sent to the dead letter.", ["source", "reason"], registry=r
        )
        self.source_stopped = Gauge(
            "aiopsd_source_stopped",
            "1 when a source stopped by its own limit (too many dead letters, lost offset).",
            ["source"],
            registry=r,
        )
        # detection
        self.series = Gauge("aiopsd_detect_series", "Live series in the bank.", ["source", "partition"], registry=r)
        self.anomalies = Counter("aiopsd_detect_anomalies", "Anomaly events emitted.", ["state"], registry=r)
        self.drifts = Counter("aiopsd_detect_drifts", "Drifts confirmed.", ["kind"], registry=r)
        self.skipped = Counter(
            "aiopsd_detect_maintenance_samples",
            "Samples that came in a window of maintenance: neither scored nor learned.",
            ["source"],
            registry=r,
        )
        self.ignored = Counter(
            "aiopsd_detect_ignored_samples",
            "Samples not newer than their series' last (late, a retry), or no number.",
            ["source", "reason"],
            registry=r,
        )
        self.models = Gauge(
            "aiopsd_detect_models",
            "Models of the second tier: running, and waiting for room in detect.online_budget or max_series.",
            ["source", "partition", "state"],
            registry=r,
        )
        self.model_faults = Counter(
            "aiopsd_detect_model_faults",
            "Samples on which a model of the second tier failed, or answered no number.",
            ["source", "model"],
            registry=r,
        )
        self.detect_seconds = Histogram(
            "aiopsd_detect_slice_seconds", "Wall time of one detection slice.", buckets=_FAST, registry=r
        )
        self.watermark = Gauge(
            "aiopsd_detect_watermark_seconds", "Newest sample time seen (UTC).", ["source", "partition"], registry=r
        )
        # journal and store
        self.journal_end = Gauge("aiopsd_journal_end_offset", "Offset the next journal record will get.", registry=r)
        self.journal_position = Gauge(
            "aiopsd_journal_committed_offset",
            "Offset of the last journal record whose decisions are committed.",
            registry=r,
        )
        self.commit_seconds = Histogram(
            "aiopsd_store_commit_seconds", "Time to commit one step's decisions.", buckets=_FAST, registry=r
        )
        self.decision_seconds = Histogram(
            "aiopsd_decision_delay_seconds",
            "From a record's stamp in the journal to its decisions committed.",
            buckets=_FAST,
            registry=r,
        )
        self.write_errors = Counter(
            "aiopsd_write_errors", "Writes refused by the disk, by what was written.", ["what"], registry=r
        )
        self.snapshot_seconds = Gauge(
            "aiopsd_snapshot_duration_seconds", "Duration of the last snapshot.", ["stage"], registry=r
        )
        self.snapshot_time = Gauge(
            "aiopsd_snapshot_timestamp_seconds", "When the last snapshot became current (UTC).", ["stage"], registry=r
        )
        # decisions
        self.incidents = Gauge("aiopsd_incidents", "Incidents in memory, by state.", ["state"], registry=r)
        self.incidents_opened = Counter("aiopsd_incidents_opened", "Incidents opened.", registry=r)
        self.alerts_kept = Gauge("aiopsd_alerts", "Alerts in memory, by state.", ["state"], registry=r)
        self.topology_nodes = Gauge("aiopsd_topology_nodes", "Vertices of the service graph.", registry=r)
        self.topology_edges = Gauge("aiopsd_topology_edges", "Edges of the service graph.", registry=r)
        self.topology_version = Gauge(
            "aiopsd_topology_version", "Goes up with every change of the service graph.", registry=r
        )
        self.bugs = Counter(
            "aiopsd_stage_bugs", "Journal records or timers whose handling failed by a bug of ours.", registry=r
        )
        self.suppressed = Counter(
            "aiopsd_notifications_suppressed", "Notifications not sent, by reason.", ["reason"], registry=r
        )
        # delivery
        self.outbox = Gauge("aiopsd_outbox_rows", "Deliveries waiting.", ["destination"], registry=r)
        self.deliveries = Counter(
            "aiopsd_deliveries", "Deliveries that reached an end, by state.", ["destination", "state"], registry=r
        )
        self.delivery_attempts = Counter("aiopsd_delivery_attempts", "Requests sent.", ["destination"], registry=r)
        self.delivery_failures = Counter(
            "aiopsd_delivery_failures", "Requests that failed, by reason.", ["destination", "reason"], registry=r
        )
        self.delivery_seconds = Histogram(
            "aiopsd_delivery_delay_seconds", "From decision to the receiver's answer.", ["destination"], registry=r
        )
        self.retrain = Counter(
            "aiopsd_retrain_requests", "Retraining requests decided, by outcome.", ["outcome"], registry=r
        )
        # the process
        self.queue_full = Counter(
            "aiopsd_queue_full", "Times a bounded queue was full and its writer waited.", ["queue"], registry=r
        )
        self.http_requests = Counter(
            "aiopsd_http_requests", "HTTP requests served.", ["method", "route", "status"], registry=r
        )
        self.reload_ok = Gauge(
            "aiopsd_config_last_reload_successful", "1 when the last reload took effect.", registry=r
        )
        self.reload_time = Gauge(
            "aiopsd_config_last_reload_success_timestamp_seconds",
            "When the running configuration was loaded (UTC).",
            registry=r,
        )
        self.build_info = Gauge("aiopsd_build_info", "Always 1; the version is the label.", ["version"], registry=r)
        self.alertmanager_build_info = Gauge(
            "alertmanager_build_info", "Always 1; karma and mixins read it.", ["version"], registry=r
        )
