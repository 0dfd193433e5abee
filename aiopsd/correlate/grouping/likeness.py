"""What an alert says, without what tells one instance from the next; and how alike two of them are."""

import re
from functools import lru_cache

from rapidfuzz import fuzz

from aiopsd.model import Alert

LONGEST = 160  # characters that are compared: summaries say what they are about at their beginning
BAR = 80.0  # RapidFuzz ratio at which two texts begin to be alike: one word in five differs
SHORTEST = 3  # characters of a label's value that is taken out of a text: "a" is in every text
_NUMBER = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*(?:[.,:][0-9]+)*", re.IGNORECASE)


def template_of(alert: Alert, name: str) -> str:
    """The alert's name and summary (or description), with its labels' values and all numbers taken out."""
    told = alert.annotations
    text = told and (told.get("summary") or told.get("description"))
    if not text:
        return name.casefold()
    text = text[: 2 * LONGEST]
    for value in sorted(alert.labels.values(), key=lambda v: (-len(v), v)):
        if len(value) >= SHORTEST and value in text:
            text = text.replace(value, "*")
    return f"{name}: {_NUMBER.sub('#', text)}"[:LONGEST].casefold()


@lru_cache(maxsize=16_384)
def alike(one: str, other: str) -> float:
    """0: two different things are said; 1: the same."""
    if one == other:
        return 1.0
    return max(0.0, fuzz.ratio(one, other, score_cutoff=BAR) - BAR) / (100.0 - BAR)
