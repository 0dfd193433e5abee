"""What sections are made of: durations that are durations, secrets that stay secret, and how raw options are read."""

import os
import re
from pathlib import Path
from typing import TypeVar

import msgspec

from aiopsd.errors import ConfigError, refused

T = TypeVar("T")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
# keys of an alertmanager.yml that are said otherwise here
_ALERTMANAGERS = {"global", "templates", "http_config", "routing_key_file", "service_key", "api_url_file", "url_file"}
_UNKNOWN = re.compile(r"unknown field `([^`]+)`")
_UNQUOTED = re.compile(r"Expected `str`, got `(?:int|float|bool)`")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdwy]))+")


class Duration(float):
    """Seconds, written as Prometheus does: `30s`, `5m`, `1h30m`, `7d`.

    >>> Duration.parse("1h30m")
    5400.0
    """

    @classmethod
    def parse(cls, text: object) -> "Duration":
        if text == 0 or text == "0":
            return cls(0.0)
        if not isinstance(text, str) or not _DURATION.fullmatch(text):
            raise ValueError(f"not a duration: {text!r} (write `30s`, `5m`, `1h30m`)")
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhdwy])", text)
        return cls(sum(float(number) * _UNITS[unit] for number, unit in parts))


class Secret:
    """A value that no repr, log or error shows. Written in place, as `{file: PATH}` or as `{env: NAME}`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def parse(cls, raw: object) -> "Secret":
        if isinstance(raw, str):
            return cls(raw)
        if isinstance(raw, dict) and len(raw) == 1:
            ((how, what),) = raw.items()
            if how == "file" and isinstance(what, str):
                try:
                    return cls(Path(what).read_text(encoding="utf-8").strip())
                except OSError as e:
                    raise ValueError(f"cannot read the secret's file: {e}") from None
            if how == "env" and isinstance(what, str):
                if what not in os.environ:
                    raise ValueError(f"environment variable {what} is not set")
                return cls(os.environ[what])
        raise ValueError("a secret is a text, {file: PATH} or {env: NAME}")


def _dec_hook(kind: type, raw: object) -> object:
    if kind in (Duration, Secret):
        return kind.parse(raw)
    raise NotImplementedError(kind)  # msgspec's protocol for "not mine"


def plugin_config(kind: type[T], raw: object, path: str) -> T:
    """Read the raw options of a plug-in into its Config.

    Raises:
        ConfigError: names the key below `path`.
    """
    try:
        return msgspec.convert(raw, kind, dec_hook=_dec_hook)
    except msgspec.ValidationError as e:
        text, where = refused(e, kind)
        if (unknown := _UNKNOWN.search(text)) and unknown.group(1) in _ALERTMANAGERS:
            text += " (of Alertmanager: docs/how-to/from-alertmanager.md says what to write here)"
        if _UNQUOTED.fullmatch(text):
            text += " (quote it)"
        raise ConfigError(text, path + where.removeprefix("$")) from None
