"""From samples to the incident's page: every kind of break is drawn with its band and where it left it."""

import re

import pytest
from msgspec.structs import replace

from aiopsd.config import load
from aiopsd.model import Evidence, Incident, Upsert
from aiopsd.pipeline.detect import build
from aiopsd.testing.breaks import BREAKS, STEP, T0, broken, noise, play
from aiopsd.testing.web import running, shop_incident
from aiopsd.web import drawing
from aiopsd.web.pages import evidence_of

EMPTY = Incident(id="i", dedup_key="i", started_at=0.0, opened_at=0.0, updated_at=0.0)


@pytest.mark.parametrize("kind", sorted(BREAKS))
def test_each_kind_of_break_is_drawn(kind: str) -> None:
    """The drawing of an event has its normal band, the mark of its onset, and the part that is outside in red."""
    event, asked = broken(kind)
    shown = next(e for e in evidence_of(EMPTY, [event, *asked]) if e.metric == "m")
    drawn = str(drawing.series(shown))

    assert shown.channel == event.channel
    assert 'class="band"' in drawn
    assert 'class="onset"' in drawn
    if kind == "no-data":
        assert 'class="missing"' in drawn
    else:
        assert len(re.findall("[ML]", drawn.split('class="broken" d="')[1].split('"')[0])) >= 2
        assert not shown.low <= shown.recent[-1][1] <= shown.high


def test_what_is_normal_is_not_what_the_fault_taught() -> None:
    """Asked an hour into a fault, the bank has widened its envelope; the band that it gives has not."""
    stage = build(load(""), "m", 0)
    values = 100 + noise(1000)
    values[-12:] += 60
    play(stage, values)
    (found,) = [e for e in stage.evidence(["db"], T0 + STEP * 988) if e.metric == "m"]

    assert found.level > 150
    assert found.high < 125


def test_an_alerts_words_hold_and_values_are_joined() -> None:
    """The event knows the band before the break; the later answer knows what came after."""
    points = ((10.0, 1.5), (20.0, 9.0))
    broke = Evidence(service="db", metric="m", channel="season", low=1.0, high=2.0, onset=20.0, recent=points)
    later = Evidence(service="db", metric="m", channel="x", low=1.0, high=9.0, recent=((20.0, 9.0), (80.0, 9.5)))
    (shown,) = evidence_of(EMPTY, [broke, later])

    assert (shown.channel, shown.high) == ("season", 2.0)
    assert shown.recent == ((10.0, 1.5), (20.0, 9.0), (80.0, 9.5))


async def test_the_page_says_what_a_model_says() -> None:
    """The opinion of the second tier stands with its signal on the incident's page and in the API, escaped."""
    incident, alerts = shop_incident()
    evidence = Evidence(
        service="db", metric="m", level=9.0, low=3.0, high=5.0, opinion="aiopsd.Joint: <b> 9 where 3..5 was expected"
    )
    async with running() as site:
        await site.door.keep([Upsert(item=incident), Upsert(item=replace(alerts[0], evidence=(evidence,)))])
        async with site.http.get(f"/incidents/{incident.id}", headers={"Accept": "text/html"}) as page:
            text = await page.text()
        members = (await site.json(f"/api/v1/incidents/{incident.id}"))["members"]

    assert "aiopsd.Joint: &lt;b&gt; 9 where 3..5 was expected" in text
    assert members[0]["evidence"][0]["opinion"] == evidence.opinion
