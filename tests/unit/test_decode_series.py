"""SeriesIndex: raw keys to rows and back."""

import tracemalloc

import msgspec
import pytest

from aiopsd.config import ServiceRule, ServicesConfig
from aiopsd.decode import series
from aiopsd.decode.series import MAX_ALIASES, SeriesIndex, pack, parse_key, split_labels
from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.services import ServiceMapper
from aiopsd.testing.decode import index

CART = {"__name__": "up", "job": "node", "service": "cart"}


def head(text: str) -> bytes:
    return text.encode()


def test_one_series_has_one_row_however_it_is_spelled() -> None:
    """Remote write, unsorted labels and two ways of JSON are one label set, so one row."""
    ix = index()
    backwards = b"".join(pack({k: CART[k]}) for k in sorted(CART, reverse=True))
    keys = [
        head('{"name":"up","labels":{"service":"cart","job":"node"},'),
        backwards,
        pack(CART),
        head('{"labels": {"job": "node", "__name__": "up", "zone": ""}, "service": "cart", '),
    ]

    assert [0, 0, 0, 0] == [ix.add(key) for key in keys]
    assert [0] * 4 == [ix.rows[key] for key in keys]
    assert (CART, "cart", "up") == (ix.labels(0), ix.service(0), ix.metric(0))
    assert [0] == ix.take_new()


def test_rows_of_evicted_series_are_given_to_the_next() -> None:
    """Eviction forgets every spelling, the lowest free row is used first, and length never shrinks."""
    ix = index()
    for i in range(4):
        ix.add(pack({"__name__": f"m{i}"}))
    alias = head('{"name":"m1","labels":{},')
    ix.add(alias)
    ix.evict([2, 1, 1, 99])

    assert [0, 3] == ix.take_new()
    assert alias not in ix.rows
    with pytest.raises(KeyError):
        ix.labels(1)
    assert [1, 2, 4] == [ix.add(head(f'{{"name":"n{i}","labels":{{}},')) for i in range(3)]
    assert 5 == len(ix)
    assert [1, 2, 4] == ix.take_new()


def test_an_evicted_series_that_comes_back_is_new() -> None:
    """After eviction a JSON series is not found by its digest: it gets a row and is announced again."""
    ix = index()
    key = head('{"name":"up","labels":{},')
    ix.add(key)
    ix.evict([0])

    assert [] == ix.take_new()
    assert 0 == ix.add(key)
    assert [0] == ix.take_new()


def test_aliases_are_bounded() -> None:
    """A sender that spells one series in ever new ways costs time, not memory; its row stays the same."""
    ix = index()
    rows = {ix.add(head('{"name":"up",' + " " * i + '"labels":{},')) for i in range(4 * MAX_ALIASES)}

    assert {0} == rows
    assert 1 + MAX_ALIASES == len(ix.rows)


def test_a_snapshot_is_plain_data_and_brings_everything_back() -> None:
    """Through msgspec and back: rows, spellings, free rows and the new ones; other services take effect."""
    ix = index()
    for i in range(3000):
        ix.add(pack({"__name__": "m", "i": str(i)}) if i % 2 else head(f'{{"name":"m","labels":{{"i":"{i}"}},'))
    ix.add(head('{"name":"m","labels":{"i":"7"},'))
    ix.take_new()
    ix.evict([5, 2998])
    ix.add(pack({"__name__": "late", "job": "node"}))
    data = msgspec.msgpack.decode(msgspec.msgpack.encode(ix.snapshot()))
    services = ServiceMapper(ServicesConfig(rules=(ServiceRule(match={"job": ".+"}, service="x-$job"),)))

    back = SeriesIndex.resume(services, data)

    assert ix.rows == back.rows
    assert len(ix) == len(back)
    assert [5] == back.take_new()
    assert "x-node" == back.service(5)
    for other in (ix, back):
        assert 2998 == other.add(pack({"__name__": "later"}))
        assert 8 == other.add(head('{"metric":"m","labels":{"i":"8"},'))  # found by digest


def test_a_snapshot_of_another_version_is_refused() -> None:
    """A snapshot that this version cannot read is an error, never a guess."""
    data = index().snapshot() | {"version": 99}

    with pytest.raises(ValueError, match="99"):
        SeriesIndex.resume(ServiceMapper(ServicesConfig()), data)


def test_sets_with_one_digest_keep_their_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were two label sets ever to share a digest, they would still not share a row."""
    monkeypatch.setattr(series._Digests, "of", staticmethod(lambda canonical: 7))
    ix = index()

    rows = [ix.add(head(f'{{"name":"m{i}","labels":{{}},')) for i in range(3)]

    assert [0, 1, 2] == rows


@pytest.mark.parametrize(
    ("key", "reason", "words"),
    [
        (pack({"job": "node"}), DecodeReason.LABELS, 'series {job="node"}: no metric name'),
        (b"", DecodeReason.LABELS, "no metric name"),
        (pack(CART) + pack({"job": "other"}), DecodeReason.LABELS, "label `job` is given twice"),
        (pack({"": "x", **CART}), DecodeReason.LABELS, "a label without a name"),
        (pack(CART).replace(b"cart", b"c\xffrt"), DecodeReason.LABELS, "not UTF-8"),
        (pack({**CART, "big": "x" * 20_000}), DecodeReason.LABELS, "at most 16384"),
        (pack({f"l{i}": "x" for i in range(200)} | CART), DecodeReason.LABELS, "203 labels, at most 128"),
        (pack(CART)[:-1], DecodeReason.MALFORMED, "broken at byte"),
        (head('{"name":"up","labels":{"a":1},'), DecodeReason.SCHEMA, "Expected `str`, got `int` - at `$.labels"),
        (head('{"name":"up","lables":{},'), DecodeReason.SCHEMA, "unknown field `lables`"),
        (head('{"name":"up","labels":{"__name__":"down"},'), DecodeReason.SCHEMA, "`name` is 'up'"),
        (head('{"name":"up","service":"a","labels":{"service":"b"},'), DecodeReason.SCHEMA, "`service` is 'a'"),
        (b'{"name":"\xff",', DecodeReason.MALFORMED, "not JSON"),
    ],
)
def test_what_names_no_series_is_refused_with_its_words(key: bytes, reason: DecodeReason, words: str) -> None:
    """A bad key changes nothing in the index, and the refusal says what is wrong and where."""
    ix = index()
    with pytest.raises(DecodeError) as caught:
        ix.add(key)

    assert reason is caught.value.reason
    assert words in caught.value.detail
    assert (0, {}, []) == (len(ix), ix.rows, ix.take_new())


def test_regular_label_bytes_are_those_that_pack_writes() -> None:
    """`split_labels` reads what `pack` writes, lengths of two bytes included, and stops before anything else."""
    labels = {"__name__": "up", "long": "v" * 300, "n" * 200: "x", "é": "ü"}
    packed = pack(labels)
    pairs, end = split_labels(packed + b"\x12\x00")

    assert len(packed) == end
    assert labels == {k.decode(): v.decode() for k, v in pairs} == parse_key(packed)


def test_a_series_costs_its_key_and_little_more() -> None:
    """5,000 series of 110 label bytes take at most 260 bytes each; a churn of as many more takes none."""
    ix = index()

    def fill(generation: int) -> None:
        for i in range(5_000):
            ix.add(
                pack(
                    {
                        "__name__": "latency_seconds",
                        "instance": f"10.{generation}.{i >> 8}.{i & 255}:9100",
                        "job": "node",
                        "service": f"service-{i // 50:05d}",
                        "zone": f"zone-{i % 3}",
                        "e": "p",
                    }
                )
            )

    tracemalloc.start()
    try:
        fill(1)
        ix.take_new()
        first = tracemalloc.get_traced_memory()[0]
        ix.evict(range(5_000))
        fill(2)
        ix.take_new()
        second = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert first / 5_000 <= 260
    assert second <= 1.1 * first
    assert 5_000 == len(ix)
