"""What numbers tell of metrics whose names tell nothing."""

import math
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from aiopsd.correlate.rootcause.symptoms import signature
from aiopsd.evidence import rejudged
from aiopsd.model import Evidence

AT_BOUND = 0.99  # of the bound: what succeeds nearly always is normally there
MOST = 0.5  # of the series of one metric; a full disk is at its bound too, but seldom most of them


def recognised(evidence: Iterable[Evidence], since: float) -> list[Evidence]:
    """The same evidence, where shares of requests that succeed are known as such: only less of them harms.

    Those are metrics whose names tell nothing, that never pass 1 or 100 and are nearly always there at most services.

    Args:
        since: the onset of the incident, from which it was judged.
    """
    found = list(evidence)
    unknown: dict[str, list[Evidence]] = {}
    for e in found:
        if e.kind == "other" and e.recent:
            unknown.setdefault(signature(e), []).append(e)
    shares = {id(e) for same in unknown.values() if _succeed(same) for e in same}
    if not shares:
        return found
    return [rejudged(replace(e, kind="availability", harm="low"), since) if id(e) in shares else e for e in found]


def _succeed(same: Sequence[Evidence]) -> bool:
    highest = max(v for e in same for _, v in e.recent)
    whole = any(math.isclose(highest, bound, rel_tol=1e-6) for bound in (1.0, 100.0))
    return whole and sum(e.normal >= AT_BOUND * highest for e in same) > MOST * len(same)
