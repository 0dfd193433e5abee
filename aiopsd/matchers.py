"""Conditions on labels: the anchored RE2 of our configuration, and Alertmanager's matchers with both of its grammars.

What enters is texts or matchers; what leaves is what can be asked of a label set. Everywhere a missing label is an
empty one. Alertmanager's semantics are those of its pkg/labels and matcher/parse.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import re2

from aiopsd.config import Config, InhibitRule, RouteConfig
from aiopsd.errors import ConfigError
from aiopsd.model import Matcher

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

_DOT = re2.Options()
_DOT.log_errors = False  # RE2 would write to stderr by itself
_DOT_OR_BREAK = re2.Options()
_DOT_OR_BREAK.log_errors = False
_DOT_OR_BREAK.dot_nl = True


class BadPattern(ValueError):
    """Not RE2 syntax; `why` is what RE2 says."""

    def __init__(self, pattern: str, why: str) -> None:
        super().__init__(f"bad regular expression {pattern!r}: {why}")
        self.why = why


def anchored(pattern: str, *, breaks: bool = False) -> Any:
    """The compiled RE2 of `^(?:pattern)$`; use its `fullmatch`. Linear in the text, whatever the pattern.

    A dot stands for a line break only where `breaks` says so: in Alertmanager it does not, in Prometheus 3 it does.

    Raises:
        BadPattern: not RE2 syntax.
    """
    try:
        return re2.compile(pattern, _DOT_OR_BREAK if breaks else _DOT)
    except re2.error as e:
        why = e.args[0].decode(errors="replace") if e.args and isinstance(e.args[0], bytes) else str(e)
        raise BadPattern(pattern, why) from None


# --------------------------------------------------------------------------- of the configuration


def configured(pattern: str, path: str) -> Any:
    """An RE2 of the configuration, for `fullmatch`.

    Raises:
        ConfigError: it is none; names the key `path`.
    """
    try:
        return anchored(pattern, breaks=True)
    except BadPattern as e:
        raise ConfigError(f"not an RE2 expression: {pattern!r} ({e.why})", path) from None


class Match:
    """All of `match` (label -> anchored RE2) must hold; a missing label counts as empty, as Prometheus does.

    Raises:
        ConfigError: an expression does not compile; names the key below `path`.
    """

    __slots__ = ("_parts",)

    def __init__(self, match: Mapping[str, str], path: str = "$") -> None:
        self._parts = tuple((label, configured(text, f"{path}.{label}").fullmatch) for label, text in match.items())

    def __call__(self, labels: Mapping[str, str]) -> bool:
        return all(fullmatch(labels.get(label, "")) is not None for label, fullmatch in self._parts)


# --------------------------------------------------------------------------- of Alertmanager


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


def conditions(given: RouteConfig | InhibitRule, path: str, side: str = "") -> tuple[Matcher, ...]:
    """All conditions of a route, or of one side of an inhibit rule ("source_", "target_"), the deprecated ones first.

    `match` and `match_re` are what Alertmanager makes of them (dispatch/route.go, inhibit/inhibit.go): matchers beside
    the others, the expression anchored in its text already, which shows in group keys.

    Raises:
        ConfigError: one that cannot be read; names its key below `path`.
    """
    found: list[Matcher] = []
    for key, is_regex in ((f"{side}match", False), (f"{side}match_re", True)):
        for name, text in getattr(given, key).items():
            if not name:
                raise ConfigError("a label needs a name", f"{path}.{key}")
            if is_regex:
                try:
                    anchored(text)
                except BadPattern as e:
                    raise ConfigError(str(e), f"{path}.{key}.{name}") from None
            found.append(Matcher(name=name, value=f"^(?:{text})$" if is_regex else text, is_regex=is_regex))
    for i, text in enumerate(getattr(given, f"{side}matchers")):
        try:
            found += parse_matchers(text)
        except ValueError as e:
            raise ConfigError(str(e), f"{path}.{side}matchers[{i}]") from None
    return tuple(found)


def deprecated(config: Config) -> Iterator[tuple[str, str]]:
    """(key, what to write instead) of each `match` and the like: taken for as long as Alertmanager takes it."""

    def noted(given: RouteConfig | InhibitRule, path: str, *keys: str) -> Iterator[tuple[str, str]]:
        for key in keys:
            if values := getattr(given, key):
                regex, side = key.endswith("_re"), key.partition("match")[0]
                texts = [matcher_text(Matcher(name=n, value=v, is_regex=regex)) for n, v in values.items()]
                quoted = ", ".join("'" + text.replace("'", "''") + "'" for text in texts)
                yield f"{path}.{key}", f"`{key}` is deprecated: write {side}matchers: [{quoted}]"

    def below(route: RouteConfig, path: str) -> Iterator[tuple[str, str]]:
        yield from noted(route, path, "match", "match_re")
        for i, sub in enumerate(route.routes):
            yield from below(sub, f"{path}.routes[{i}]")

    yield from below(config.route, "$.route")
    for i, rule in enumerate(config.inhibit_rules):
        sides = ("source_match", "source_match_re", "target_match", "target_match_re")
        yield from noted(rule, f"$.inhibit_rules[{i}]", *sides)


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


_WORDS = re.compile(r"(?:[\w:/@ -]|\.[*+]?)+(?:\|(?:[\w:/@ -]|\.[*+]?)+)*")  # alternatives of plain text and wildcards


def needles(m: Matcher) -> tuple[str, ...]:
    """Texts of which every value that matches holds at least one; () when nothing of the kind is known.

    >>> needles(parse_matcher('pod=~"web-.*|db.0"')), needles(parse_matcher('pod!="x"'))
    (('web-', 'db'), ())
    """
    if not m.is_equal or not m.value:
        return ()
    if not m.is_regex:
        return (m.value,)
    if not _WORDS.fullmatch(m.value):
        return ()
    found = tuple(max(re.split(r"\.[*+]?", part), key=len) for part in m.value.split("|"))
    return found if all(found) else ()


class Fault(StrEnum):
    """Why matchers cannot choose anything."""

    NONE = "none is given"
    NAMELESS = "one has no name"
    PATTERN = "one is no RE2"
    EVERYTHING = "they match what has no labels, and so everything"


def fault(matchers: Sequence[Matcher]) -> tuple[Fault, int, str] | None:
    """The first (fault, number of the matcher, what RE2 says) of a request's matchers; None: they are good."""
    if not matchers:
        return Fault.NONE, 0, ""
    for i, m in enumerate(matchers):
        if not m.name:
            return Fault.NAMELESS, i, ""
        if m.is_regex:
            try:
                anchored(m.value)
            except BadPattern as e:
                return Fault.PATTERN, i, str(e)
    return (Fault.EVERYTHING, 0, "") if Matchers(matchers).matches({}) else None


def seen_of(labels: Mapping[str, str], service: str) -> dict[str, str]:
    """What matchers see of a series: its labels, and as `service` the one that it was mapped to, if it was.

    >>> seen_of({"job": "pay", "service": "x"}, "pay"), seen_of({"job": "pay"}, "")
    ({'job': 'pay', 'service': 'pay'}, {'job': 'pay', 'service': ''})
    """
    return {**labels, "service": service or labels.get("service", "")}
