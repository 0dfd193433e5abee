"""Times as senders write them, to UTC seconds since the epoch."""

from datetime import UTC, datetime
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = 253_402_300_800.0  # year 10000, exclusive: no sender means it, and milliseconds given as seconds lie beyond


@lru_cache(maxsize=4096)  # a firing alert is sent again with the same text; so are the samples of one scrape
def parse_time(text: str) -> float:
    """Seconds of an RFC 3339 time; 0 for Go's zero time (year 1), which means that the sender left it out.

    Takes any number of fractional digits (vmalert sends nine; microseconds are kept) and a missing zone as UTC.

    Raises:
        ValueError: not a time; the message quotes it.

    >>> parse_time("2026-01-05T00:00:00.5Z"), parse_time("0001-01-01T00:00:00Z")
    (1767571200.5, 0.0)
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"cannot read {text[:100]!r} as an RFC 3339 time") from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    if at.year == 1:
        return 0.0
    return (at - EPOCH).total_seconds()
