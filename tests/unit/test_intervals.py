"""Time intervals: what lies in one, and what is refused. The cases follow Alertmanager's documentation."""

import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from aiopsd.config import load
from aiopsd.errors import ConfigError
from aiopsd.routing import routes
from aiopsd.routing.tree import intervals
from aiopsd.testing.services import require


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def holds(parts: str, when: str) -> bool:
    config = load(f"time_intervals: [{{name: x, time_intervals: [{parts}]}}]")
    return intervals(config)["x"].holds(at(when))


INSIDE = [  # parts, a time inside, a time outside
    ("{times: [{start_time: 09:00, end_time: 17:00}]}", "2026-11-27T09:00:00Z", "2026-11-27T17:00:00Z"),
    ("{times: [{start_time: 22:00, end_time: 24:00}]}", "2026-11-27T23:59:59Z", "2026-11-28T00:00:00Z"),
    ("{weekdays: [monday:friday]}", "2026-11-27T12:00:00Z", "2026-11-28T12:00:00Z"),  # a Friday, a Saturday
    ("{weekdays: [Saturday, SUNDAY]}", "2026-11-29T12:00:00Z", "2026-11-30T12:00:00Z"),
    ("{weekdays: [sunday:monday]}", "2026-11-30T12:00:00Z", "2026-11-28T12:00:00Z"),
    ("{days_of_month: [1:5]}", "2026-11-05T12:00:00Z", "2026-11-06T12:00:00Z"),
    ("{days_of_month: [7]}", "2026-11-07T12:00:00Z", "2026-11-06T12:00:00Z"),
    ("{days_of_month: ['-3:-1']}", "2026-02-26T12:00:00Z", "2026-02-25T12:00:00Z"),
    ("{days_of_month: ['20:-1']}", "2026-02-28T12:00:00Z", "2026-02-19T12:00:00Z"),
    ("{days_of_month: ['-31']}", "2026-01-01T12:00:00Z", "2026-02-01T12:00:00Z"),
    ("{days_of_month: [31]}", "2026-01-31T12:00:00Z", "2026-02-28T12:00:00Z"),  # February has none
    ("{months: [1:3]}", "2026-03-31T23:59:59Z", "2026-04-01T00:00:00Z"),
    ("{months: ['may:august', december]}", "2026-12-01T00:00:00Z", "2026-09-01T00:00:00Z"),
    ("{years: ['2020:2022', 2026]}", "2026-01-01T00:00:00Z", "2025-12-31T00:00:00Z"),
    ("{weekdays: [friday], months: [11]}", "2026-11-27T12:00:00Z", "2026-10-30T12:00:00Z"),  # every kind must hold
    ("{years: [2025]}, {years: [2026]}", "2026-06-01T00:00:00Z", "2027-06-01T00:00:00Z"),  # any entry may
    (
        "{times: [{start_time: 08:00, end_time: 09:00}, {start_time: 20:00, end_time: 21:00}]}",
        "2026-11-27T20:30:00Z",
        "2026-11-27T09:00:00Z",
    ),
    (
        "{times: [{start_time: 02:00, end_time: 03:00}], location: Europe/Berlin}",  # +1 in winter, +2 in summer
        "2026-01-27T01:30:00Z",
        "2026-07-27T01:30:00Z",
    ),
    ("{weekdays: [saturday], location: Asia/Tokyo}", "2026-11-27T16:00:00Z", "2026-11-28T16:00:00Z"),
]


@pytest.mark.parametrize(("parts", "inside", "outside"), INSIDE)
def test_what_lies_in_an_interval(parts: str, inside: str, outside: str) -> None:
    """Of one entry every kind must hold, of one kind any range; both ends are inside, but that of a time of day."""
    assert (True, False) == (holds(parts, inside), holds(parts, outside))


def test_an_empty_entry_is_always_and_no_entry_never() -> None:
    """As in Alertmanager: nothing given restricts nothing, and an interval of no parts holds at no time."""
    assert (True, False) == (holds("{}", "2026-01-01T00:00:00Z"), holds("", "2026-01-01T00:00:00Z"))


NAMED = "time_intervals: [{name: x, time_intervals: [%s]}]"
PART = "$.time_intervals[0].time_intervals[0]"


REFUSED = [  # configuration, key, what is said of it
    (NAMED % "{times: [{start_time: 9, end_time: '10:00'}]}", f"{PART}.times[0].start_time", "Expected `str`"),
    (NAMED % "{times: [{start_time: 22:00, end_time: 06:00}]}", f"{PART}.times[0]", "both sides of midnight"),
    (NAMED % "{times: [{start_time: 22:00, end_time: 25:00}]}", f"{PART}.times[0]", "not a time of day"),
    (NAMED % "{times: [{start_time: 22:00}]}", f"{PART}.times[0]", "`end_time`"),
    (NAMED % "{weekdays: [caturday]}", f"{PART}.weekdays[0]", "not a weekday: 'caturday'"),
    (NAMED % "{weekdays: [monday, saturday:sunday]}", f"{PART}.weekdays[1]", "ends before it begins"),
    (NAMED % "{days_of_month: [0]}", f"{PART}.days_of_month[0]", "not a day of the month"),
    (NAMED % "{days_of_month: [32]}", f"{PART}.days_of_month[0]", "not a day of the month"),
    (NAMED % "{days_of_month: ['-3:3']}", f"{PART}.days_of_month[0]", "ends before it begins"),
    (NAMED % "{days_of_month: ['-1:-3']}", f"{PART}.days_of_month[0]", "ends before it begins"),
    (NAMED % "{months: [13]}", f"{PART}.months[0]", "not a month"),
    (NAMED % "{months: [august:may]}", f"{PART}.months[0]", "ends before it begins"),
    (NAMED % "{years: ['2022:2020']}", f"{PART}.years[0]", "ends before it begins"),
    (NAMED % "{years: [soon]}", f"{PART}.years[0]", "not a year: 'soon'"),
    (NAMED % "{location: Mars/Olympus}", f"{PART}.location", "no time zone `Mars/Olympus`"),
    (NAMED % "{location: Europe}", f"{PART}.location", "no time zone `Europe`"),
    (NAMED % "{weekends: [1]}", PART, "weekends"),
    ("time_intervals: [{name: ''}]", "$.time_intervals[0].name", "needs a `name`"),
    ("time_intervals: [{name: a}, {name: a}]", "$.time_intervals[1].name", "defined twice"),
    ("{time_intervals: [{name: a}], mute_time_intervals: [{name: a}]}", "$.mute_time_intervals[0]", "twice"),
    ("route: {routes: [{mute_time_intervals: [x]}]}", "$.route.routes[0].mute_time_intervals[0]", "unknown"),
    ("route: {routes: [{active_time_intervals: [x]}]}", "$.route.routes[0].active_time_intervals[0]", "unknown"),
    ("{route: {mute_time_intervals: [x]}, time_intervals: [{name: x}]}", "$.route.mute_time_intervals", "root"),
]


@pytest.mark.parametrize(("text", "path", "said"), REFUSED)
def test_an_interval_that_means_nothing_is_refused(text: str, path: str, said: str) -> None:
    """The configuration is refused with the key and what is wrong with it, as Alertmanager refuses it."""
    with pytest.raises(ConfigError) as caught:
        routes(load(text))

    assert caught.value.path.startswith(path)
    assert said in str(caught.value)


def test_intervals_are_not_inherited() -> None:
    """A route below a muted one tells, as in Alertmanager."""
    tree = routes(
        load(
            "{time_intervals: [{name: x, time_intervals: [{}]}],"
            " route: {routes: [{mute_time_intervals: [x], routes: [{matchers: [a=b]}]}]}}"
        )
    )

    assert [("x",), ()] == [tree.match(labels)[0].muted_by(0.0) for labels in ({}, {"a": "b"})]


@pytest.mark.services
def test_the_real_amtool_takes_and_refuses_the_same(tmp_path: Path) -> None:
    """What we read passes `amtool check-config`, what we refuse does not; but a thirteenth month, which it takes."""
    program = require("amtool")

    def taken(text: str) -> bool:
        (tmp_path / "am.yml").write_text(f"route: {{receiver: a}}\nreceivers: [{{name: a}}]\n{text}\n")
        return subprocess.run([program, "check-config", tmp_path / "am.yml"], capture_output=True).returncode == 0

    assert taken(NAMED % ", ".join(parts for parts, _, _ in INSIDE))
    refused = [text for text, _, _ in REFUSED if text.startswith("time_intervals")]
    assert [NAMED % "{months: [13]}"] == [text for text in refused if taken(text)]
