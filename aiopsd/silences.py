"""Silences: who asked that which alerts stay quiet, and until when.

Enters: silence commands, stamps. Leaves: silences to write, and the ids of the silences that cover a label set now.
Semantics are Alertmanager's (its silence/silence.go): a set must have a matcher that does not match the empty text,
editing what an active silence covers makes a new one and ends the old one. A state (pending, active, expired) is never
stored: it follows from the times and the stamp.

Two differences, on purpose: ids come from content and the request id, so a replay gives the same; and a silence that is
expired at a stamp is expired *at* that stamp, so that a read after the write sees it.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from hashlib import blake2b
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from aiopsd.matchers import Fault, Matchers, fault
from aiopsd.model import Labels, PutSilence, Silence, Window


class SilenceState(StrEnum):
    """By the times and the stamp; Alertmanager's words, in the order in which its API lists them."""

    ACTIVE = "active"
    PENDING = "pending"
    EXPIRED = "expired"


def state_of(silence: Silence | Window, stamp: float) -> SilenceState:
    """Pending before its start, expired from its end on, active between."""
    if stamp >= silence.ends_at:
        return SilenceState.EXPIRED
    return SilenceState.PENDING if stamp < silence.starts_at else SilenceState.ACTIVE


def silence_id(command: PutSilence) -> str:
    """The id (a UUID, as amtool wants) that a new silence of this command gets: from its content and request id."""
    digest = blake2b(digest_size=16)
    digest.update(msgspec.json.encode(replace(command, id="")))
    return str(uuid.UUID(bytes=digest.digest(), version=5))


_WORDS = {
    Fault.NONE: "at least one matcher required",
    Fault.NAMELESS: 'invalid label matcher: invalid label name ""',
    Fault.PATTERN: "invalid label matcher: ",
    Fault.EVERYTHING: "at least one matcher must not match the empty string",
}


def problem(command: PutSilence, stamp: float) -> str | None:
    """Why this command cannot be taken, in Alertmanager's words (an answer 400), or None.

    An unknown `id` is not seen here: the door looks it up (404), and `SilenceBook.put` ignores it.
    """
    wrong = fault(command.matchers)
    if wrong is not None:
        what, _, why = wrong
        return f"silence invalid: {_WORDS[what]}{why}"
    if command.ends_at <= (command.starts_at or stamp):
        return "Failed to create silence: start time must be before end time"
    if command.ends_at <= stamp:
        return "Failed to create silence: end time can't be in the past"
    return None


class SilenceBook:
    """All silences of the domain, changed by commands and read at flush time.

    `put` and `expire` return what must be written; a command that cannot be taken changes nothing and returns
    nothing (the door has answered 400 or 404 already, by `problem` and its own look-up).
    """

    def __init__(self, resume: Mapping[str, Any] | None = None) -> None:
        self._silences: dict[str, Silence] = {}
        self._matchers: dict[str, Matchers] = {}
        for silence in msgspec.convert((resume or {}).get("silences", []), list[Silence]):
            self._keep(silence)

    def put(self, command: PutSilence, stamp: float) -> list[Silence]:
        """Create or edit; the silences written, the one asked for last ([] when refused or already done).

        An edit of the end or the comment keeps the id; any other edit ends the old one and makes a new one, whose id
        is `silence_id(command)`.
        """
        if problem(command, stamp) is not None:
            return []
        new_id = silence_id(command)
        old = self._silences.get(command.id)
        if (command.id and old is None) or new_id in self._silences:
            return []
        starts_at = command.starts_at or stamp
        wanted = Silence(
            id=new_id,
            matchers=command.matchers,
            starts_at=max(starts_at, stamp),
            ends_at=command.ends_at,
            updated_at=stamp,
            created_by=command.created_by,
            comment=command.comment,
        )
        if old is None:
            return [self._keep(wanted)]
        state = state_of(old, stamp)
        same = old.matchers == command.matchers
        if same and (
            (state is SilenceState.ACTIVE and int(old.starts_at) == int(starts_at))
            or (state is SilenceState.PENDING and starts_at >= stamp)
        ):
            return [self._keep(replace(wanted, id=old.id, starts_at=starts_at))]
        if state is SilenceState.EXPIRED:
            return [self._keep(wanted)]
        return [self._end(old, stamp), self._keep(wanted)]

    def expire(self, silence_id: str, stamp: float) -> Silence | None:
        """End it now; None when it is unknown or over already (asking twice is fine)."""
        old = self._silences.get(silence_id)
        if old is None or state_of(old, stamp) is SilenceState.EXPIRED:
            return None
        return self._end(old, stamp)

    def expire_old(self, stamp: float, retention: float) -> list[str]:
        """Forget silences that ended `retention` seconds ago or earlier; their ids."""
        gone = [s.id for s in self._silences.values() if s.ends_at + retention <= stamp]
        for key in gone:
            del self._silences[key], self._matchers[key]
        return gone

    def silenced_by(self, labels: Labels, stamp: float) -> tuple[str, ...]:
        """Ids of the silences that are active at `stamp` and match, in the order of their creation."""
        return tuple(
            key
            for key, silence in self._silences.items()
            if silence.starts_at <= stamp < silence.ends_at and self._matchers[key].matches(labels)
        )

    def get(self, silence_id: str) -> Silence | None:
        return self._silences.get(silence_id)

    def all(self) -> list[Silence]:
        """In the order of their creation."""
        return list(self._silences.values())

    def snapshot(self) -> dict[str, Any]:
        return {"silences": cast("list[Any]", msgspec.to_builtins(list(self._silences.values())))}

    def _keep(self, silence: Silence) -> Silence:
        self._silences[silence.id] = silence
        self._matchers[silence.id] = Matchers(silence.matchers)
        return silence

    def _end(self, silence: Silence, stamp: float) -> Silence:
        return self._keep(replace(silence, starts_at=min(silence.starts_at, stamp), ends_at=stamp, updated_at=stamp))


def sorted_silences(silences: Iterable[Silence], stamp: float) -> Sequence[Silence]:
    """Alertmanager's order: active (by end), pending (by start), expired (latest end first)."""
    order = list(SilenceState)

    def key(s: Silence) -> tuple[int, float, str]:
        state = state_of(s, stamp)
        when = {SilenceState.ACTIVE: s.ends_at, SilenceState.PENDING: s.starts_at, SilenceState.EXPIRED: -s.ends_at}
        return (order.index(state), when[state], s.id)

    return sorted(silences, key=key)
