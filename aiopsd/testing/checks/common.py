"""What all suites share."""

from collections.abc import Awaitable
from typing import TypeVar

E = TypeVar("E", bound=Exception)

PROMPT = 5.0  # s; what must happen at once has so long on a busy machine


def name_of(check: object) -> str:
    """The id of a parametrised test."""
    return getattr(check, "__name__", str(check))


async def refusal(kind: type[E], call: Awaitable[object]) -> E:
    """The error of this kind that the call raises.

    Raises:
        AssertionError: it returned.
    """
    try:
        result = await call
    except kind as error:
        return error
    raise AssertionError(f"returned {result!r}, expected {kind.__name__}")
