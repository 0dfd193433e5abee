"""When drift deserves a request to retrain: cooldown per subject, a budget a day, and the evidence that was gathered.

Enters: confirmed drifts with the stamp at which they arrived. Leaves: a request, or the reason why there is none. A
drift that must wait is not lost: it is kept with its subject, and goes out with that subject's next request, at the
latest when the cooldown or the budget frees it (`wake_at`, `due`). One change is one request, however many drifts it
shows in: a day of another shape breaks the level within hours and is known as another season days later, and what many
inputs of a model do together is confirmed of each in its own time. Who trains, and how, is not known here.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from aiopsd.config import RetrainingConfig
from aiopsd.model import DriftDetected, RetrainRequest, content_id

DAY = 86400.0  # s; the budget's window slides, so that midnight frees nothing
KNOWN = 30 * DAY  # s of sample time; no change takes longer to be seen by another name: that of a week takes three
EVIDENCE_LIMIT = 20  # drifts in one request: the first one and the newest; a trainer reads a reason, not a log


class Retraining:
    """Decides retraining requests; a subject is a model when the drift names one, else the drifting series.

    One drift is one request at once when its subject is out of its cooldown and the budget has room. The same drift
    (by its id) never makes two requests: `dedup_key` comes from the subject and the drifts inside.
    """

    def __init__(self, config: RetrainingConfig, resume: Mapping[str, Any] | None = None) -> None:
        state = resume or {}
        self._cooldown = float(config.cooldown)
        self._budget = config.budget
        self._asked: dict[str, float] = dict(state.get("asked", {}))  # subject -> stamp of its last request
        self._until: dict[str, float] = dict(state.get("until", {}))  # subject -> newest drift of its last request
        self._spent: list[float] = list(state.get("spent", []))  # stamps of requests within the last day
        self._waiting: dict[str, list[DriftDetected]] = msgspec.convert(
            state.get("waiting", {}), dict[str, list[DriftDetected]]
        )

    def decide(self, drift: DriftDetected, stamp: float) -> tuple[RetrainRequest | None, str]:
        """(the request that this drift makes now or None, why): requested, known, cooldown, budget or duplicate."""
        subject = drift.model or drift.subject
        if self._known(subject, drift, stamp):
            return None, "known"
        held = self._waiting.setdefault(subject, [])
        if any(d.id == drift.id for d in held):
            return None, "duplicate"
        held.append(drift)
        if len(held) > EVIDENCE_LIMIT:
            del held[1]
        reason = self._hindrance(subject, stamp)
        if reason:
            return None, reason
        return self._request(subject, stamp), "requested"

    def due(self, stamp: float) -> list[RetrainRequest]:
        """Requests for drifts that had to wait and need not any more, the longest wait first."""
        free = (subject for subject in list(self._waiting) if not self._hindrance(subject, stamp))
        return [self._request(subject, stamp) for subject in free]  # lazily: each one spends of the same budget

    def wake_at(self) -> float | None:
        """When the first waiting subject is free; None: nobody waits (or the budget is zero)."""
        if not self._waiting or self._budget < 1:
            return None
        cool = min(self._asked.get(subject, -self._cooldown) + self._cooldown for subject in self._waiting)
        if len(self._spent) < self._budget:
            return cool
        return max(cool, self._spent[-self._budget] + DAY)

    def snapshot(self) -> dict[str, Any]:
        return {
            "asked": dict(self._asked),
            "until": dict(self._until),
            "spent": list(self._spent),
            "waiting": msgspec.to_builtins(self._waiting),
        }

    def _known(self, subject: str, drift: DriftDetected, stamp: float) -> bool:
        """Whether the change behind a drift had begun when its subject was last asked for: that training has seen it.

        Errors are such a change only until the cooldown ends: they are of the model as it was, in another region or by
        another share. A model that errs on after a training needs another.
        """
        if drift.since >= self._until.get(subject, -math.inf):
            return False
        return drift.kind != "error-rate" or self._cooling(subject, stamp)

    def _cooling(self, subject: str, stamp: float) -> bool:
        return subject in self._asked and stamp < self._asked[subject] + self._cooldown

    def _hindrance(self, subject: str, stamp: float) -> str:
        """Why this subject must wait; "" when it need not."""
        if self._cooling(subject, stamp):
            return "cooldown"
        if self._budget < 1 or (len(self._spent) >= self._budget and stamp < self._spent[-self._budget] + DAY):
            return "budget"
        return ""

    def _request(self, subject: str, stamp: float) -> RetrainRequest:
        drifts = self._waiting.pop(subject)
        self._asked[subject] = stamp
        self._spent = [*self._spent[-self._budget :], stamp]
        for old in [s for s, at in self._asked.items() if at + self._cooldown <= stamp]:
            del self._asked[old]  # out of its cooldown: as if never asked
        newest = max(d.ts for d in drifts)
        self._until = {s: at for s, at in self._until.items() if at + KNOWN > newest}
        self._until[subject] = newest
        key = content_id("retrain", subject, *(d.id for d in drifts))
        last = drifts[-1]
        return RetrainRequest(
            id=key,
            dedup_key=key,
            subject=subject,
            model=last.model,
            reason=_reason(drifts),
            requested_at=stamp,
            drift=tuple(drifts),
            labels=last.labels,
        )


def _reason(drifts: list[DriftDetected]) -> str:
    """One line for a person: what changed, from what to what, and how sure."""
    d = drifts[-1]
    what = f"{d.service}/{d.metric}".strip("/") or d.subject
    more = f" (and {len(drifts) - 1} more)" if len(drifts) > 1 else ""
    return (
        f"{d.kind} drift of {what} by {d.detector or 'detector'}: {d.before:.4g} -> {d.after:.4g}, "
        f"statistic {d.statistic:.4g} over {d.threshold:.4g}{more}"
    )
