"""The exception tree and the closed enums of reasons.

    AiopsdError
    +-- ConfigError(path)             a key of the configuration is wrong; `path` names it ($.sources[0].kafka)
    +-- DecodeError(reason, detail)   a record cannot be read; becomes a Reject value at the edge of a stage
    +-- DeliveryError(reason, retry)  a receiver did not take a request; says whether trying again can help
    +-- StreamError(retry)            a log cannot be read or written
    |   +-- OffsetLost                the log no longer holds the offset that we stand at
    +-- StoreError
        +-- Fenced                    somebody else owns this partition or this store now
        +-- Corrupt                   a checksum does not match; names the file, row or offset
        +-- Full                      no space left; nothing was written, trying again later can help

Bad data is a value (`model.Reject`), not an exception: the core raises only for bugs.
"""

import re
from collections.abc import Iterator
from enum import Enum, StrEnum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec


class DecodeReason(StrEnum):
    """Why a record, or an item of it, was refused. A metric label: keep the set closed."""

    MALFORMED = "malformed"  # not the format it claims to be
    COMPRESSION = "compression"
    SCHEMA = "schema"  # well-formed, but a field is missing or of the wrong type
    LABELS = "labels"  # no labels, bad label name, or no metric name
    TIMESTAMP = "timestamp"
    VALUE = "value"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"  # a known format or feature that we do not take
    DECODER = "decoder"  # its decoder failed on it: a bug, of ours or of a plug-in


class DeliveryReason(StrEnum):
    """Why a delivery failed. A metric label, Alertmanager's set first."""

    CLIENT_ERROR = "clientError"
    SERVER_ERROR = "serverError"
    TIMEOUT = "contextDeadlineExceeded"
    AUTH = "authError"
    RATE_LIMITED = "rateLimited"
    NETWORK = "network"
    TOO_LARGE = "tooLarge"
    OTHER = "other"


class AiopsdError(Exception):
    """Base of every error that aiopsd raises on purpose."""


class ConfigError(AiopsdError):
    """A key of the configuration is wrong. `path` is where, in msgspec's notation."""

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message if path in message else f"{message} - at `{path}`")
        self.path = path


class DecodeError(AiopsdError):
    """A record cannot be read."""

    def __init__(self, reason: DecodeReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class DeliveryError(AiopsdError):
    """A receiver did not take a request. `retry_after` is the receiver's word in seconds, when it gave one."""

    def __init__(self, reason: DeliveryReason, detail: str, *, retry: bool, retry_after: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.retry = retry
        self.retry_after = retry_after


class StreamError(AiopsdError):
    """A log cannot be read or written."""

    def __init__(self, detail: str, *, retry: bool = True) -> None:
        super().__init__(detail)
        self.retry = retry


class OffsetLost(StreamError):
    """The log begins after (or ends before) the offset at which we stand: retention, or a recreated topic."""

    def __init__(self, source: str, partition: int, wanted: int, earliest: int, latest: int) -> None:
        super().__init__(
            f"{source}/{partition}: offset {wanted} is gone, the log holds {earliest}..{latest}", retry=False
        )
        self.source, self.partition, self.wanted = source, partition, wanted
        self.earliest, self.latest = earliest, latest


class StoreError(AiopsdError):
    """The store refused."""


class Fenced(StoreError):
    """Somebody else owns this partition or store now; what we wanted to write is theirs to decide."""


class Corrupt(StoreError):
    """What was read is not what was written."""


class Full(StoreError):
    """No space left on the device (or a quota): nothing of the request was written."""


# --------------------------------------------------------------------------- what msgspec refuses

_STEP = re.compile(r"\.(\w+)|\[[^\]]*\]")
_NO_WORD = "Invalid enum value"


def refused(e: msgspec.ValidationError, kind: Any) -> tuple[str, str]:
    """(what is wrong, where: `$`, `$.a[0].b`) of a value that is no `kind`; a refused word comes with those it takes.

    >>> class Edge(msgspec.Struct):
    ...     kind: Literal["calls", "reads"]
    >>> try:
    ...     msgspec.convert([{"kind": "cals"}], list[Edge])
    ... except msgspec.ValidationError as e:
    ...     refused(e, list[Edge])
    ("Invalid enum value 'cals', expected one of: calls, reads", '$[0].kind')
    """
    text, _, where = str(e).partition(" - at `")
    where = where.rstrip("`") or "$"
    if text.startswith(_NO_WORD):
        found = [kind]
        for step in _STEP.finditer(where):
            found = [inner for hint in found for inner in _inside(hint, step.group(1) or "")]
        words = dict.fromkeys(word for hint in found for word in _words(hint))
        text += f", expected one of: {', '.join(words)}" if words else ""
    return text, where


def _inside(hint: Any, field: str) -> Iterator[Any]:
    """Types of what `field` of this type may hold; with "" of its items."""
    for one in _alternatives(hint):
        if not field:
            yield from get_args(one)[-1:] if get_origin(one) is dict else get_args(one)
        elif isinstance(one, type) and issubclass(one, msgspec.Struct):
            yield from [h for name, h in get_type_hints(one).items() if name == field]


def _words(hint: Any) -> Iterator[str]:
    for one in _alternatives(hint):
        if get_origin(one) is Literal:
            yield from map(str, get_args(one))
        elif isinstance(one, type) and issubclass(one, Enum):
            yield from (str(member.value) for member in one)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a type alone is one."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
