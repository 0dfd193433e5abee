"""Silences."""

import msgspec
import pytest

from aiopsd.matchers import parse_matchers
from aiopsd.model import Matcher, PutSilence, Silence
from aiopsd.silences import SilenceBook, SilenceState, problem, silence_id, sorted_silences, state_of


def put(request_id: str = "r1", *, start: float = 0.0, end: float = 100.0, **more: object) -> PutSilence:
    matchers = more.pop("matchers", (Matcher(name="a", value="b"),))
    return PutSilence(request_id=request_id, matchers=matchers, starts_at=start, ends_at=end, **more)  # type: ignore[arg-type]  # by its fields


# ------------------------------------------------------------------ commands


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (put(matchers=()), "at least one matcher"),
        (put(matchers=(Matcher(name="a", value=""),)), "must not match the empty string"),
        (put(matchers=(Matcher(name="a", value=".*", is_regex=True),)), "must not match the empty string"),
        (put(matchers=(Matcher(name="a", value="(", is_regex=True),)), "bad regular expression"),
        (put(start=50.0, end=50.0), "start time must be before end time"),
        (put(start=1.0, end=9.0), "in the past"),
    ],
)
def test_a_bad_silence_is_refused_in_words_and_changes_nothing(command: PutSilence, said: str) -> None:
    """`problem` names what is wrong, and `put` of the same command writes nothing."""
    book = SilenceBook()

    assert said in (problem(command, 10.0) or "")
    assert [] == book.put(command, 10.0)


def test_ids_come_from_content_and_request() -> None:
    """One retried request is one silence; two equal requests are two."""
    book = SilenceBook()

    [first] = book.put(put("r1"), 10.0)
    assert [] == book.put(put("r1"), 11.0)
    [second] = book.put(put("r2"), 12.0)

    assert silence_id(put("r1")) == first.id != second.id
    assert {first.id, second.id} == {s.id for s in book.all()}


def test_a_start_in_the_past_is_now() -> None:
    """The start is clamped to the stamp, and a start of 0 means now."""
    [silence] = SilenceBook().put(put(start=3.0), 10.0)

    assert (10.0, 100.0) == (silence.starts_at, silence.ends_at)


def test_states_follow_from_times() -> None:
    """Pending before the start, active from it, expired from the end on."""
    silence = Silence(id="s", matchers=(), starts_at=10.0, ends_at=20.0, updated_at=0.0)

    states = [state_of(silence, t) for t in (9.9, 10.0, 19.9, 20.0)]
    assert [SilenceState.PENDING, SilenceState.ACTIVE, SilenceState.ACTIVE, SilenceState.EXPIRED] == states


def test_moving_the_end_keeps_the_id() -> None:
    """An edit of end and comment changes the silence in place."""
    book = SilenceBook()
    [old] = book.put(put(), 10.0)

    [new] = book.put(put("r2", id=old.id, start=old.starts_at, end=500.0, comment="longer"), 20.0)

    assert (old.id, old.starts_at, 500.0, "longer") == (new.id, new.starts_at, new.ends_at, new.comment)


def test_moving_what_it_covers_ends_it_and_makes_another() -> None:
    """An edit of the matchers of an active silence expires it and creates a new one."""
    book = SilenceBook()
    [old] = book.put(put(), 10.0)
    command = put("r2", id=old.id, start=old.starts_at, matchers=(Matcher(name="a", value="c"),))

    ended, new = book.put(command, 20.0)

    assert (old.id, 20.0) == (ended.id, ended.ends_at)
    assert (silence_id(command), 20.0, 100.0) == (new.id, new.starts_at, new.ends_at)
    assert () == book.silenced_by({"a": "b"}, 20.0)
    assert (new.id,) == book.silenced_by({"a": "c"}, 20.0)


def test_editing_the_unknown_writes_nothing() -> None:
    """An edit of an id that the book does not hold is ignored (the door has answered 404)."""
    assert [] == SilenceBook().put(put(id="nobody"), 10.0)


def test_expiring_takes_effect_at_its_stamp_and_only_once() -> None:
    """An expired silence mutes nothing at that very stamp; expiring again, or the unknown, is no write."""
    book = SilenceBook()
    [silence] = book.put(put(), 10.0)
    assert (silence.id,) == book.silenced_by({"a": "b"}, 15.0)

    assert book.expire(silence.id, 15.0) is not None

    assert () == book.silenced_by({"a": "b"}, 15.0)
    assert book.expire(silence.id, 16.0) is None
    assert book.expire("nobody", 16.0) is None


def test_a_pending_silence_expires_before_it_began() -> None:
    """Expiring a pending silence sets both its times to the stamp."""
    book = SilenceBook()
    [silence] = book.put(put(start=50.0), 10.0)

    ended = book.expire(silence.id, 20.0)

    assert ended is not None
    assert (20.0, 20.0) == (ended.starts_at, ended.ends_at)


def test_old_ones_are_forgotten_after_the_retention() -> None:
    """A silence leaves `retention` seconds after its end, not sooner."""
    book = SilenceBook()
    [silence] = book.put(put(), 10.0)

    assert [] == book.expire_old(199.0, 100.0)
    assert [silence.id] == book.expire_old(200.0, 100.0)
    assert [] == book.all()


def test_a_snapshot_resumes_to_the_same() -> None:
    """A book built from a snapshot silences the same and gives the same snapshot."""
    book = SilenceBook()
    book.put(put("r1"), 10.0)
    book.put(put("r2", matchers=parse_matchers('a=~"b+",c!="d"')), 11.0)
    state = msgspec.json.decode(msgspec.json.encode(book.snapshot()))

    again = SilenceBook(state)

    assert book.silenced_by({"a": "b"}, 20.0) == again.silenced_by({"a": "b"}, 20.0)
    assert msgspec.json.encode(state) == msgspec.json.encode(again.snapshot())


def test_the_api_lists_active_then_pending_then_expired() -> None:
    """Alertmanager's order: active by end, pending by start, expired last."""
    spans = {"late": (5.0, 90.0), "soon": (5.0, 50.0), "pending": (60.0, 70.0), "over": (1.0, 9.0)}
    silences = [Silence(id=k, matchers=(), starts_at=a, ends_at=b, updated_at=0) for k, (a, b) in spans.items()]

    assert ["soon", "late", "pending", "over"] == [s.id for s in sorted_silences(silences, 10.0)]
