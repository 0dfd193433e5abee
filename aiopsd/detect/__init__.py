"""Scores: what enters is columns of samples, what leaves is anomalies and drifts with their evidence.

bank       every sample of every series, vectorised: range break on cheap channels
online     the second tier: who has a model, and what its verdicts confirm
models     models by name: river's, ours (shapes, joint) and plug-ins', behind one protocol
calibrate  one model per series, its statistic through an envelope
vectors    a service's metrics as one vector an interval
signals    what a metric is by its name: kind, harmful direction, counter or gauge
join       the evidence of a service's series becomes one event with a life: firing, revised, resolved
threshold  fixed limits on raw values, with hysteresis and minimum duration
silence    series that fell silent against their source's own watermark, one event for what died together
drift      a series, or the errors of a model, changed for good
daily      the shape of a day or a week changed for good
evidence   what the bank knows, in the words and units of an operator

Nothing here knows records, logs or clocks; `aiopsd.pipeline.detect` puts it together for one partition.
"""
