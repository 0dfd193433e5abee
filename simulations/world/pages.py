"""What somebody else would have paged."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simulations.world.alerting import iso

GROUP_WAIT, GROUP_INTERVAL, REPEAT = 30.0, 300.0, 4 * 3600.0  # s; Alertmanager's defaults


def pages_without(requests: Iterable[tuple[float, Sequence[Mapping[str, Any]]]], until: float) -> int:
    """Pages that an Alertmanager with `group_by: [alertname, service]` sends for these requests up to `until`.

    Its rules with its default intervals: a group waits group_wait, then looks again each group_interval; it pages when
    its alert is new, and again each repeat_interval while it lasts. Resolved messages are not counted as pages.
    """
    moves: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    for at, batch in requests:
        for alert in batch:
            labels = alert["labels"]
            key = (labels["alertname"], labels.get("service") or labels.get("node") or "")
            firing = alert["endsAt"] > iso(at)
            known = moves.setdefault(key, [(0.0, False)])
            if firing != known[-1][1]:
                known.append((at, firing))
    pages = 0
    for steps in moves.values():
        ends = [*[at for at, _ in steps[1:]], until]
        flush = told = None  # next look at the group; time of its last page while it lives
        for (at, firing), end in zip(steps, ends, strict=True):
            if firing and flush is None:
                flush = at + GROUP_WAIT
            while flush is not None and flush <= end:
                if not firing:
                    flush = told = None
                elif told is None or flush - told >= REPEAT:
                    pages, told = pages + 1, flush
                if flush is not None:
                    flush += GROUP_INTERVAL
    return pages
