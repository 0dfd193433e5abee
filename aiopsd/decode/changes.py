"""Changes: deployments, configuration changes, scalings, as their pipelines report them.

A record: {"service", "kind"?, "ts", "id"?, "summary"?, "version"?, "actor"?, "link"?, "labels"?}, or a list of them.
`ts` is seconds since the epoch or an RFC 3339 text. docs/reference/change.schema.json has it.
"""

from typing import Literal

import msgspec

from aiopsd.decode.times import LATEST, parse_time
from aiopsd.errors import DecodeError, DecodeReason, refused
from aiopsd.model import ChangeEvent, Labels, content_id


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    ts: float | str
    kind: Literal["deploy", "config", "scale", "other"] = "other"
    id: str = ""
    summary: str = ""
    version: str = ""
    actor: str = ""
    link: str = ""
    labels: Labels = {}


_BODY = _Change | list[_Change]
_changes = msgspec.json.Decoder(_BODY)


def decode_changes(value: bytes) -> list[ChangeEvent]:
    """The changes of a record, in its order. Without an `id` the content gives one: the same report is the same change.

    Raises:
        DecodeError: MALFORMED, SCHEMA or TIMESTAMP, with the key; nothing of the record is taken then.
    """
    try:
        read = _changes.decode(value)
    except msgspec.ValidationError as e:
        text, where = refused(e, _BODY)
        raise DecodeError(DecodeReason.SCHEMA, text if where == "$" else f"{text} - at `{where}`") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise DecodeError(DecodeReason.MALFORMED, f"not JSON: {e}") from None
    if isinstance(read, list):
        return [_event(change, f"$[{i}]") for i, change in enumerate(read)]
    return [_event(read, "$")]


def _event(change: _Change, where: str) -> ChangeEvent:
    if not change.service:
        raise DecodeError(DecodeReason.SCHEMA, f"an empty text - at `{where}.service`")
    try:
        ts = parse_time(change.ts) if isinstance(change.ts, str) else change.ts
    except ValueError as e:
        raise DecodeError(DecodeReason.TIMESTAMP, f"{e} - at `{where}.ts`") from None
    if not 0.0 < ts < LATEST:
        hint = ": `ts` counts seconds, these look like milliseconds" if 1e11 < ts < 1e14 else ""
        raise DecodeError(DecodeReason.TIMESTAMP, f"{change.ts!r} is no time{hint} - at `{where}.ts`")
    return ChangeEvent(
        id=change.id
        or content_id("change", change.service, change.kind, ts, change.version, change.summary, change.actor),
        service=change.service,
        kind=change.kind,
        ts=ts,
        summary=change.summary,
        version=change.version,
        actor=change.actor,
        link=change.link,
        labels=change.labels,
    )
