"""Our JSON metric record: joined ends, known beginnings and lists against plain json."""

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.config import ServicesConfig
from aiopsd.decode import check_samples, decode_samples, split_samples
from aiopsd.decode.columns import Batch
from aiopsd.decode.json_metrics import _Reader
from aiopsd.errors import DecodeError
from aiopsd.services import ServiceMapper
from aiopsd.testing.decode import Sample, index, records, sample, samples

texts = st.one_of(
    st.sampled_from(["up", "cart", 'a","value":1', '"value":', "{", "}", "},{", "\\", "é\u2028", "\x00", ""]),
    st.text(max_size=6),
)
label_sets = st.dictionaries(st.one_of(st.sampled_from(["service", "job", "value", "ts"]), texts), texts, max_size=3)
values = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-5, 5),
    st.sampled_from([None, "NaN", "Infinity", "-Infinity", "1.5", "x", "1_0", " 1", True, [1], {"ts": 1}]),
)
times = st.one_of(
    st.floats(1.6e9, 1.8e9),
    st.integers(1_600_000_000, 1_800_000_000),
    st.sampled_from(["2026-01-05T00:00:00Z", "2026-01-05T00:00:00.25+01:00", "yesterday", 0, -1, 1.7e12, None, [1]]),
)


@st.composite
def items(draw: st.DrawFn, packed: bool = True) -> list[tuple[str, object]]:
    """The members of one record, in some order, often as they should be."""
    members: list[tuple[str, object]] = [
        (draw(st.sampled_from(["name", "name", "name", "metric"])), draw(st.sampled_from(["up", "q", ""]))),
        ("labels", draw(label_sets)),
    ]
    if packed and draw(st.integers(0, 3)) == 0:
        members.append(("points", draw(st.lists(st.tuples(times, values), max_size=3))))
    else:
        members += [("value", draw(values)), ("ts", draw(times))]
    odd = draw(st.integers(0, 9))
    if odd == 0:
        members.pop(draw(st.integers(0, len(members) - 1)))
    elif odd == 1:
        extra = [("lables", {}), ("service", "cart"), ("timestamp", 1.7e9), ("samples", []), ("name", "other")]
        members.append(draw(st.sampled_from(extra)))
    if draw(st.booleans()):
        members = draw(st.permutations(members))
    return members


def text_of(members: list[tuple[str, object]], space: str) -> str:
    """A JSON object with its members in this order, a key twice if it is there twice."""
    return "{" + f",{space}".join(f"{json.dumps(k)}:{space}{json.dumps(v)}" for k, v in members) + "}"


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    space = draw(st.sampled_from(["", "", " "]))
    shape = draw(st.integers(0, 5))
    if shape <= 3:
        text = text_of(draw(items()), space)
    else:
        listed = f",{space}".join(text_of(m, space) for m in draw(st.lists(items(), max_size=3)))
        text = f"[{listed}]" if shape == 4 else f'{{"samples":{space}[{listed}]}}'
    cut = draw(st.integers(0, 19))
    if cut == 0:
        text = text[: draw(st.integers(0, len(text)))]
    elif cut == 1:
        text += draw(st.sampled_from([" ", "\n", "}", ',{"value":1,"ts":2}', "]"]))
    return text.encode()


# ------------------------------------------------------------------ the judge


class Refused(Exception):
    pass


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        if value not in ("NaN", "Infinity", "-Infinity", "1.5"):
            raise Refused
        return float(value)
    return float(value)  # type: ignore[arg-type]  # by its fields


def _seconds(ts: object) -> float:
    if isinstance(ts, str):
        known = {"2026-01-05T00:00:00Z": 1767571200.0, "2026-01-05T00:00:00.25+01:00": 1767567600.25}
        if ts not in known:
            raise Refused
        return known[ts]
    if not 0 < ts < 253_402_300_800:  # type: ignore[operator]  # judged as JSON gives it
        raise Refused
    return float(ts)  # type: ignore[arg-type]  # by its fields


def _judged_item(item: object) -> list[Sample]:
    """The samples of one record; some may be missing. Refused: none can be had."""
    if not isinstance(item, dict) or set(item) - {
        "name", "metric", "service", "labels", "ts", "timestamp", "value", "points"
    }:  # fmt: skip
        raise Refused
    ts = [item[k] for k in ("ts", "timestamp") if k in item]
    given = [*ts, *([item["value"]] if "value" in item else [])]
    if "points" in item:
        if given:
            raise Refused
        pairs = item["points"]
    elif len(ts) != 1 or "value" not in item:
        raise Refused
    else:
        pairs = [(ts[0], item["value"])]
    for t, v in pairs:
        if isinstance(t, bool | list | None) or isinstance(v, bool | list | dict):
            raise Refused  # of the wrong type: the record does not say what it should
    labels = dict(item.get("labels", {}))
    for field, name in (("name", "__name__"), ("metric", "__name__"), ("service", "service")):
        if field in item and labels.setdefault(name, item[field]) != item[field]:
            raise Refused
    if "" in labels:
        raise Refused
    labels = {k: v for k, v in labels.items() if v}
    if "__name__" not in labels:
        raise Refused
    found = []
    for t, v in pairs:
        try:
            found.append(sample(labels, _seconds(t), _number(v)))
        except Refused:
            continue
    return found


def judged(body: bytes) -> list[Sample]:
    """The samples of one body by the json module."""
    try:
        read = json.loads(body)
    except ValueError:
        return []
    if isinstance(read, dict) and "samples" in read:
        if set(read) != {"samples"} or not isinstance(read["samples"], list):
            return []
        read = read["samples"]
    found: list[Sample] = []
    for item in read if isinstance(read, list) else [read]:
        try:
            found += _judged_item(item)
        except Refused:
            continue
    return found


@given(st.lists(bodies(), max_size=6), st.data())
@settings(max_examples=150, deadline=None)
def test_samples_are_those_of_plain_json(some: list[bytes], data: st.DataObject) -> None:
    """Records give the samples that json and the schema give, on first sight and again when their series are known."""
    some = some + data.draw(st.lists(st.sampled_from(some), max_size=6)) if some else some
    ix = index()
    expected = [s for body in some for s in judged(body)]

    for _ in range(2):
        columns = decode_samples(records(some, "json"), ix)
        assert expected == samples(columns, ix)
    refused = {r.pos.offset for r in columns.rejects}
    for i, body in enumerate(some):
        assert judged(body) or i in refused or check_samples(body, "json").taken == 0


@given(st.lists(bodies(), max_size=8), st.data())
@settings(max_examples=80, deadline=None)
def test_batches_change_nothing(some: list[bytes], data: st.DataObject) -> None:
    """However records are cut into batches, rows, samples and rejects are those of one record at a time."""
    some = some + data.draw(st.lists(st.sampled_from(some), max_size=6)) if some else some
    given_records = records(some, "json")
    slow_index, slow = index(), Batch()
    reader = _Reader(0, slow_index, slow)
    for number, record in enumerate(given_records):
        reader.record(record, number)
    reader.flush()
    rows, ts, values, numbers = slow.columns()
    whole_index, cut_index = index(), index()
    whole = decode_samples(given_records, whole_index)
    at = data.draw(st.integers(0, len(some)))
    parts = [decode_samples(given_records[:at], cut_index), decode_samples(given_records[at:], cut_index)]

    assert rows.tolist() == whole.rows.tolist() == [r for p in parts for r in p.rows.tolist()]
    assert ts.tolist() == whole.ts.tolist()
    assert values.tobytes() == whole.values.tobytes() == b"".join(p.values.tobytes() for p in parts)
    assert numbers.tolist() == whole.record.tolist()
    assert slow.rejects == whole.rejects == parts[0].rejects + parts[1].rejects
    assert slow_index.take_new() == whole_index.take_new() == cut_index.take_new()


tails = st.sampled_from(
    [
        b'"value":1,"ts":2}', b'"value":1,"ts":2},{"value":3,"ts":4}', b'"value":1,"ts":2,"x":[{"a":1}',
        b'"value":1,"ts":2}]}', b'"value":"}', b'"value":"","ts":2}', b'"value":1}', b'"ts":1,"value":2}', b'"value":',
        b'"value":1,"ts":2}]', b'"value":1,"ts":2}\n', b'"value":[1,{"ts":2}', b'"value":1,"ts":"a\\"}',
        b'"value":NaN}',
        b'"value":1,"ts":2},{"v\\u0061lue":3,"ts":4}',
    ]
)  # fmt: skip


@given(st.lists(tails, min_size=1, max_size=5))
@settings(max_examples=120, deadline=None)
def test_joined_ends_do_not_lean_on_each_other(ends: list[bytes]) -> None:
    """Two broken records beside each other are two broken records, even when their join would be JSON."""
    head = b'{"name":"up","labels":{"job":"a"},'
    some = [head + b'"value":0,"ts":1}'] + [head + end for end in ends]
    ix = index()
    decode_samples(records(some[:1], "json"), ix)

    assert [s for body in some for s in judged(body)] == samples(decode_samples(records(some, "json"), ix), ix)


@given(st.lists(bodies(), min_size=1, max_size=4), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_a_split_loses_nothing_and_keeps_services_together(some: list[bytes], partitions: int) -> None:
    """The parts of a body hold its samples exactly once, and no service is in two of them."""
    services = ServiceMapper(ServicesConfig())
    for body in some:
        try:
            parts = split_samples(body, "json", partitions, services)
        except DecodeError:
            assert not judged(body)
            continue
        where: dict[str, int] = {}
        for partition, part in parts:
            for labels, _, _ in judged(part):
                service = services.service(dict(labels))
                assert not service or partition == where.setdefault(service, partition)

        assert sorted(judged(body)) == sorted(s for _, part in parts for s in judged(part))


@given(st.one_of(st.binary(max_size=60), bodies()))
@settings(max_examples=120, deadline=None)
def test_the_door_takes_what_the_decoder_takes(body: bytes) -> None:
    """A body has as many samples at the door as later; what is refused there is refused later."""
    ix = index()
    columns = decode_samples(records([body], "json"), ix)
    try:
        count, refused = check_samples(body, "json").taken, False
    except DecodeError:
        count, refused = 0, True
    assert count == len(columns.rows)
    assert columns.rejects or not refused
