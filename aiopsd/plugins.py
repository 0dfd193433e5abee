"""(kind, name) -> class, from entry points; built-ins use the same door as third-party plug-ins."""

from importlib.metadata import entry_points
from typing import Any

from aiopsd.errors import ConfigError

KINDS = ("detectors", "notifiers", "trainers", "stores", "streams", "decoders")


def load(kind: str, name: str, path: str = "$") -> Any:
    """The class registered as `name` in the entry-point group `aiopsd.<kind>`; imported only now.

    Raises:
        ConfigError: nobody registered that name; lists what there is. `path` is the key that asked for it.
    """
    found = entry_points(group=f"aiopsd.{kind}")
    for point in found:
        if point.name == name:
            return point.load()
    known = ", ".join(sorted(point.name for point in found)) or "none: is aiopsd installed?"
    raise ConfigError(f"unknown {kind[:-1]} `{name}` (known: {known})", path)


def names(kind: str) -> list[str]:
    """Registered names of one kind, sorted."""
    return sorted({point.name for point in entry_points(group=f"aiopsd.{kind}")})
