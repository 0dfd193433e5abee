"""The functional core: what enters is records, what leaves is effects, and neither stage knows the world.

`detect` scores one partition of a metric log; `correlate` turns the journal of one domain into decisions. Both are
deterministic functions of their records, whatever the cut into batches: `step(a + b)` is `step(a)` then `step(b)`.
"""
