"""Causes: what belongs together (grouping), where an alert stands in the graph (place), what caused it (rootcause).

Enters: alerts with their evidence, the topology, stamps. Leaves: placements, second thoughts, ranked candidates. No
clock, no I/O: all of it is state of the correlate stage and a function of its journal.
"""
