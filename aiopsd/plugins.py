"""(kind, name) -> class, from entry points; built-ins use the same door as third-party plug-ins."""

from importlib.metadata import entry_points
from typing import Any

from aiopsd.errors import ConfigError

KINDS = ("detectors", "notifiers", "trainers", "stores", "streams", "decoders")


def load(kind: str, name: str, path: str = "$") -> Any:
    """The class registered as `name` in the entry-point group `aiopsd.<kind>`; imported only now.

    Raises:
        ConfigError: nobody registered that name (lists what there is), or what it names cannot be imported. `path` is
            the key that asked for it.
    """
    found = entry_points(group=f"aiopsd.{kind}")
    for point in found:
        if point.name == name:
            try:
                return point.load()
            except Exception as e:  # importing foreign code may raise anything; the operator has to know whose it is
                whose = f" of {point.dist.name}" if point.dist else ""
                text = f"{kind[:-1]} `{name}`{whose} cannot be imported: {type(e).__name__}: {e}"
                raise ConfigError(text, path) from e
    known = ", ".join(sorted(point.name for point in found)) or "none: is aiopsd installed?"
    raise ConfigError(f"unknown {kind[:-1]} `{name}` (known: {known})", path)


def names(kind: str) -> list[str]:
    """Registered names of one kind, sorted."""
    return sorted({point.name for point in entry_points(group=f"aiopsd.{kind}")})
