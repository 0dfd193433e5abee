"""What a metric is: its kind, the direction that harms, counter or gauge; by configured rules, then by its name.

Names only sharpen: a metric whose name says nothing is watched in both directions. What enters is a label set; what
leaves is a `Signal`. Rules are anchored RE2, as everywhere in the configuration.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from aiopsd.config import SignalRule
from aiopsd.decode.series import TEMPORALITY
from aiopsd.matchers import Match

NAME = "__name__"


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    kind: str = "other"  # as SignalRule.kind
    harm: str = "both"  # high | low | both | none
    counter: bool = False


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# First kind with a word in the name wins. The order argues: `cpu_seconds` is a resource before it is a duration,
# `http_errors_total` an error before it is traffic, `request_duration` a latency before it is traffic.
_WORDS: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("errors", "high", _set("""error errors err errs failure failures failed fail fails exception exceptions fault
        faults 5xx 500 502 503 504 timeout timeouts dropped drops drop rejected rejects retry retries retransmits panic
        panics crash crashes restarts oom evicted""")),
    ("availability", "low", _set("availability available success successes up healthy health ready uptime")),
    ("resource", "both", _set("""cpu memory mem heap rss disk filesystem fs gc swap iops io inodes network net node
        threads goroutines fds""")),
    ("latency", "high", _set("""latency latencies duration durations delay rtt ttfb elapsed seconds millis ms
        response_time responsetime p50 p75 p90 p95 p99 p999 quantile apdex""")),
    ("saturation", "high", _set("""queue queued pending backlog lag saturation pressure throttled throttling
        inflight waiting blocked load utilization utilisation usage used busy depth""")),
    ("traffic", "both", _set("""request requests rps qps throughput traffic call calls hits messages msgs rate
        connections sessions ops operations transactions orders count""")),
)  # fmt: skip
_COUNTED = _WORDS[0][2] | _WORDS[-1][2]
_LOW = _set("free idle remaining headroom apdex")  # of these there can only be too little
_SPLIT = re.compile(r"[^a-zA-Z0-9]+|(?<=[a-z])(?=[A-Z])")
# What Prometheus writes of each scrape tells of the scraper as much as of the target; `up`, beside them, is news.
_OF_A_SCRAPE = _set("""scrape_duration_seconds scrape_samples_scraped scrape_samples_post_metric_relabeling
    scrape_series_added scrape_timeout_seconds scrape_sample_limit scrape_body_size_bytes""")
_COUNTER = ("_total", "_count", "_sum", "_bucket")


def by_name(metric: str) -> Signal:
    """What the name of a metric says.

    >>> by_name("http_request_duration_seconds")
    Signal(kind='latency', harm='high', counter=False)
    >>> by_name("http_requests_errors_total").kind
    'errors'
    >>> by_name("request_duration_seconds_sum"), by_name("elb_request_count_sum")
    (Signal(kind='other', harm='both', counter=True), Signal(kind='traffic', harm='both', counter=False))
    >>> by_name("scrape_duration_seconds").harm, by_name("up").harm
    ('none', 'low')
    >>> by_name("value")
    Signal(kind='other', harm='both', counter=False)
    """
    if metric in _OF_A_SCRAPE:
        return Signal(harm="none")
    words = {w.lower() for w in _SPLIT.split(metric) if w}
    base = metric.removesuffix("_sum")
    if base != metric and set(_SPLIT.split(base.lower())[-1:]) & _COUNTED:
        # what is counted has no running sum as what is measured has: it is the sum of a period (CloudWatch's exporters)
        return replace(by_name(base), counter=False)
    counter = metric.endswith(_COUNTER)
    if metric.endswith("_bucket"):
        # a dozen more times what the histogram's count and sum say already: they would outvote the service's others
        return Signal(kind="traffic", harm="none", counter=True)
    if metric.endswith("_count") and not words & _WORDS[0][2]:
        return Signal(kind="traffic", counter=True)  # of a histogram: how many, not how long
    if metric.endswith("_sum"):
        return Signal(counter=True)
    for kind, harm, known in _WORDS:
        if words & known:
            if kind == "resource" and words & {"error", "errors"}:
                continue
            return Signal(kind=kind, harm="low" if words & _LOW else harm, counter=counter)
    return Signal(harm="low" if words & _LOW else "both", counter=counter)


class Signals:
    """`of(labels)`: the first configured rule that matches, else the name.

    Names are few and label sets many: which rules can match a name is found out once, and only what else they ask of
    the labels is asked of each series.
    """

    def __init__(self, rules: Sequence[SignalRule], path: str = "$.detect.signals") -> None:
        self._rules = []
        for i, r in enumerate(rules):
            Match(r.match, f"{path}[{i}].match")  # names the key of what does not compile
            name = {k: v for k, v in r.match.items() if k == NAME}
            rest = {k: v for k, v in r.match.items() if k != NAME}
            self._rules.append((Match(name), Match(rest) if rest else None, r))
        self._cache: dict[str, tuple[tuple[Match | None, Signal], ...]] = {}

    def of(self, labels: Mapping[str, str]) -> Signal:
        metric = labels.get(NAME, "")
        possible = self._cache.get(metric)
        if possible is None:
            if len(self._cache) >= 100_000:
                self._cache.clear()  # a sender that invents names must not fill the memory
            possible = self._cache[metric] = tuple(self._possible(metric))
        signal = next(signal for rest, signal in possible if rest is None or rest(labels))
        return replace(signal, counter=False) if TEMPORALITY in labels else signal

    def _possible(self, metric: str) -> Iterator[tuple[Match | None, Signal]]:
        named = by_name(metric)
        for name, rest, rule in self._rules:
            if name({NAME: metric}):
                counter = named.counter if rule.counter is None else rule.counter
                yield rest, Signal(kind=rule.kind, harm=rule.harm, counter=counter)
                if rest is None:
                    return
        yield None, named
