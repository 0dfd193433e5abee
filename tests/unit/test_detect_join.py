"""The join of a service's evidence, given breaks as the bank writes them down."""

from aiopsd.detect.bank import HOUR
from aiopsd.detect.evidence import Series
from aiopsd.detect.join import Join, JoinPolicy, Seen

T0 = 1_700_006_400.0
MINUTE = 60.0


def join(series: int = 1) -> Join:
    out = Join(JoinPolicy(), lambda row: Series(service="pay", metric=f"m{row}", labels={"__name__": f"m{row}"}))
    for _ in range(series):
        out.appear("pay")
    return out


def seen(
    minute: float, evidence: float, *, row: int = 0, channel: int = 0, up: bool = True, deviations: float = 10.0
) -> Seen:
    """A sample beyond a range from 0 to 1, which is so many deviations wide."""
    value = 1 + evidence if up else -evidence
    ts = T0 + MINUTE * minute
    return Seen(0, row, ts, value, evidence, channel, up, 0.5, 0.0, 1.0, 1 / deviations, MINUTE, 0.0, [])


def test_breaks_of_one_series_add_up_for_as_long_as_evidence_is_kept() -> None:
    """Three breaks within minutes, each too small for an event, are one; hours apart they are none."""

    def told(every: float) -> int:
        pay = join()
        # above, below, above, and of the hour: none is a step of a ramp
        breaks = [
            seen(0, 0.06),
            seen(every, 0.06, up=False),
            seen(2 * every, 0.06, channel=HOUR),
        ]
        return sum(pay.observe(s) is not None for s in breaks)

    assert [told(5), told(180)] == [1, 0]


def test_however_often_one_metric_breaks_it_is_not_many_metrics() -> None:
    """The breaks of a single metric of twenty never come to an event of the service; those of two metrics do."""
    one, two = join(20), join(20)
    alone = [one.observe(seen(t, 0.7, channel=HOUR)) for t in range(20)]
    both = [two.observe(seen(t, 0.7, row=t % 2, channel=HOUR)) for t in range(4)]
    assert not any(alone)
    assert any(both)


def test_a_metric_whose_range_was_made_by_jumps_needs_company() -> None:
    """Beyond a range of 400 deviations a metric counts half as much, and alone only when it is twice as far out."""

    def told(deviations: float, far: float, company: float) -> bool:
        pay = join(20)
        events = [pay.observe(seen(0, far, deviations=deviations))]
        if company:
            events.append(pay.observe(seen(1, company, row=1)))
        return any(e is not None for e in events)

    assert told(10, 3.0, 0.3)
    assert not told(400, 3.0, 0.3)
    assert told(400, 3.0, 0.9)
    assert told(10, 12.0, 0.0)
    assert not told(400, 12.0, 0.0)
    assert told(400, 24.0, 0.0)
