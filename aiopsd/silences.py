"""Matchers and silences: who asked that which alerts stay quiet, and until when.

Enters: matcher texts, silence commands, stamps. Leaves: compiled matchers, silences to write, and the ids of the
silences that cover a label set now. Semantics are Alertmanager's (its silence/silence.go and pkg/labels): matchers are
fully anchored RE2, a missing label is an empty one, a set must have a matcher that does not match the empty text,
editing what an active silence covers makes a new one and ends the old one. A state (pending, active, expired) is never
stored: it follows from the times and the stamp.

Two differences, on purpose: ids come from content and the request id, so a replay gives the same; and a silence that is
expired at a stamp is expired *at* that stamp, so that a read after the write sees it.
"""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from hashlib import blake2b
from typing import Any, cast

import msgspec
import re2
from msgspec.structs import replace

from aiopsd.model import Labels, Matcher, PutSilence, Silence, Window

# --------------------------------------------------------------------------- matchers

_CLASSIC = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(=~|=|!=|!~)\s*(.*?)\s*", re.DOTALL)
_OPERATOR = re.compile(r"=~|!~|!=|=")
_BARE = re.compile(r"[^\s{}!=~,\\\"'`]+")  # an unquoted token of the UTF-8 grammar
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_GO_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
_GO_SIMPLE = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    '"': '"',
}
_OPS = {"=": (False, True), "!=": (False, False), "=~": (True, True), "!~": (True, False)}

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False  # RE2 would write to stderr by itself


def anchored(pattern: str) -> Any:
    """The compiled RE2 of `^(?:pattern)$`; use its `fullmatch`. Linear in the text, whatever the pattern.

    Raises:
        ValueError: not RE2 syntax; says what RE2 says.
    """
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as e:
        what = e.args[0].decode(errors="replace") if e.args and isinstance(e.args[0], bytes) else str(e)
        raise ValueError(f"bad regular expression {pattern!r}: {what}") from None


def parse_matcher(text: str) -> Matcher:
    """One matcher, `name="value"` with =, !=, =~ or !~; Alertmanager's classic grammar, then its UTF-8 one.

    >>> parse_matcher('service=~"db|cache"')
    Matcher(name='service', value='db|cache', is_regex=True, is_equal=True)

    Raises:
        ValueError: neither grammar reads it, or its regular expression is not RE2.
    """
    found = parse_matchers(text)
    if len(found) != 1:
        raise ValueError(f"expected one matcher: {text!r}")
    return found[0]


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """Matchers separated by commas, with or without braces: `{a="b", "ü name"!="c"}`.

    The classic grammar wins where both read it, as in Alertmanager's fallback mode.

    Raises:
        ValueError: see `parse_matcher`.
    """
    try:
        found = tuple(_classic(part) for part in _split(text))
    except ValueError as classic:
        try:
            found = _utf8(text)
        except ValueError:
            raise classic from None
    for m in found:
        if m.is_regex:
            anchored(m.value)
    return found


def _split(text: str) -> list[str]:
    """Parts between commas that stand outside quotes."""
    inner = text.strip().removeprefix("{").removesuffix("}")
    parts, part, quoted, escaped = [], "", False, False
    for c in inner:
        if c == "," and not quoted:
            parts.append(part)
            part = ""
            continue
        if c == '"' and not escaped:
            quoted = not quoted
        escaped = c == "\\" and not escaped
        part += c
    return [*parts, part] if part.strip() else parts


def _classic(text: str) -> Matcher:
    found = _CLASSIC.fullmatch(text)
    if found is None:
        raise ValueError(f"bad matcher format: {text!r}")
    name, op, raw = found.groups()
    quoted = raw.startswith('"')
    value, escaped, closed = "", False, False
    for i, c in enumerate(raw[1:] if quoted else raw):
        last = i == len(raw) - 1 - quoted
        if escaped:
            escaped = False
            value += {"n": "\n", '"': '"', "\\": "\\"}.get(c, "\\" + c)
        elif c == "\\" and not last:
            escaped = True
        elif c == '"':
            if not (quoted and last):
                raise ValueError(f"matcher value contains an unescaped double quote: {text!r}")
            closed = True
        else:
            value += c
    if quoted and not closed:
        raise ValueError(f"matcher value contains an unescaped double quote: {text!r}")
    is_regex, is_equal = _OPS[op]
    return Matcher(name=name, value=value, is_regex=is_regex, is_equal=is_equal)


def _utf8(text: str) -> tuple[Matcher, ...]:
    """Alertmanager's UTF-8 grammar (matcher/parse): names and values bare or in double quotes."""
    rest = text.strip()
    if rest.startswith("{") != rest.endswith("}"):
        raise ValueError(f"unbalanced braces: {text!r}")
    rest = rest[1:-1].strip() if rest.startswith("{") else rest
    out: list[Matcher] = []
    while rest:
        name, rest = _token(rest, text)
        op = _OPERATOR.match(rest)
        if op is None:
            raise ValueError(f"expected one of = != =~ !~ after {name!r}: {text!r}")
        value, rest = _token(rest[op.end() :].lstrip(), text)
        is_regex, is_equal = _OPS[op.group()]
        out.append(Matcher(name=name, value=value, is_regex=is_regex, is_equal=is_equal))
        if rest and not rest.startswith(","):
            raise ValueError(f"expected a comma before {rest!r}: {text!r}")
        rest = rest[1:].lstrip()
    return tuple(out)


def _token(rest: str, text: str) -> tuple[str, str]:
    if found := _QUOTED.match(rest):
        return _go_unquote(found.group()), rest[found.end() :].lstrip()
    if found := _BARE.match(rest):
        return found.group(), rest[found.end() :].lstrip()
    raise ValueError(f"expected a name or a value at {rest!r}: {text!r}")


def _go_unquote(quoted: str) -> str:
    """strconv.Unquote of a double-quoted Go string."""

    def one(found: re.Match[str]) -> str:
        x, u4, u8, octal, simple = found.groups()
        if simple is not None:
            if simple not in _GO_SIMPLE:
                raise ValueError(f"unknown escape \\{simple} in {quoted}")
            return _GO_SIMPLE[simple]
        code = int(octal, 8) if octal else int(x or u4 or u8, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000 or (octal and code > 0xFF):
            raise ValueError(f"escape out of range in {quoted}")
        return chr(code)

    return _GO_ESCAPE.sub(one, quoted[1:-1])


def matcher_text(m: Matcher) -> str:
    """As Alertmanager writes it: `name="value"`, the name in quotes only where the classic grammar needs it."""
    op = next(k for k, v in _OPS.items() if v == (m.is_regex, m.is_equal))
    name = m.name if re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", m.name) else _quote(m.name)
    return name + op + _quote(m.value)


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"') + '"'


class Matchers:
    """A compiled conjunction of matchers; a missing label is an empty one.

    >>> Matchers(parse_matchers('a="1",b=~"x|"')).matches({"a": "1"})
    True

    Raises:
        ValueError: a regular expression that is not RE2.
    """

    __slots__ = ("_regexes", "_texts", "matchers")

    def __init__(self, matchers: Iterable[Matcher]) -> None:
        self.matchers = tuple(matchers)
        self._texts = tuple((m.name, m.value, m.is_equal) for m in self.matchers if not m.is_regex)
        self._regexes = tuple((m.name, anchored(m.value).fullmatch, m.is_equal) for m in self.matchers if m.is_regex)

    def matches(self, labels: Mapping[str, str]) -> bool:
        for name, value, equal in self._texts:
            if (labels.get(name, "") == value) is not equal:
                return False
        return all((fullmatch(labels.get(name, "")) is not None) is equal for name, fullmatch, equal in self._regexes)

    def __str__(self) -> str:
        return "{" + ",".join(sorted(map(matcher_text, self.matchers))) + "}"


# --------------------------------------------------------------------------- silences


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


def problem(command: PutSilence, stamp: float) -> str | None:
    """Why this command cannot be taken, in Alertmanager's words (an answer 400), or None.

    An unknown `id` is not seen here: the door looks it up (404), and `SilenceBook.put` ignores it.
    """
    if not command.matchers:
        return "silence invalid: at least one matcher required"
    for m in command.matchers:
        if not m.name:
            return 'silence invalid: invalid label matcher: invalid label name ""'
        if m.is_regex:
            try:
                anchored(m.value)
            except ValueError as e:
                return f"silence invalid: invalid label matcher: {e}"
    if Matchers(command.matchers).matches({}):
        return "silence invalid: at least one matcher must not match the empty string"
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
