"""The stage of one partition of a metric log: records in, anomalies and drifts out, as `Append` effects.

Decoded columns go through the bank in rounds; the few samples that left their envelope, the hours that ended and the
breaches of fixed limits go, in the order of the log, through small state machines. The only time is that of the
samples: the watermark is the newest sample time that can be believed, and every timer is due when a record moves it
past.

Batch invariance, bit for bit: what concerns one series is elementwise in its samples; what crosses series happens in
the order of (record, sample), or at a record that moves the watermark past a boundary. Row numbers differ with the way
records were cut once series have been evicted, so no output depends on them.

`watermark` says which sample times can be; `roster` who the rows are, and who is forgotten; `policies` what is wanted
of them, `planned` when they are excused; `quiet` and `drifts` tell of silence and of drift; `order` puts what was
found in the order of the log; `stage` takes the samples through all of it.
"""

from aiopsd.pipeline.detect.stage import DetectStage, build

__all__ = ("DetectStage", "build")
