"""The correlate stage: the journal in, decisions out.

Enters: journal records (alerts, anomalies, digests, drift, topology, changes, commands, ticks). Leaves: effects (rows
to write, notifications, retraining requests, questions to the detect side, audit lines). It composes grouping, root
cause, incident lifecycle, silences, routing and retraining, and owns the one clock they share: the stamp of the record
at hand, or of the timer that is due before it.

Timers are exact: before a record is handled, every timer due at or before its stamp fires, ordered by due, kind, key.

`parts` is what it composes; `ledger` holds the rows; `pages` tells routing of them; `causes` asks for evidence and
ranks; `incidents` is their life; `tellers` knows who tells an anomaly; `stage` has a handler for every kind of record.
"""

from aiopsd.pipeline.correlate.stage import CorrelateStage, build

__all__ = ("CorrelateStage", "build")
