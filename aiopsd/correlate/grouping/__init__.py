"""Alerts into incidents: each trouble picks its most likely parent in the graph, and a tree of troubles is an incident.

An alert is one symptom of a *trouble*: one vertex of the graph that left its normal state. For every trouble we weigh
where it came from: from a trouble of something it depends on (it climbed), of something that depends on it (load and
retries run down), from a dependency that several share and that has said nothing yet, or from nowhere: its own fault
or noise. The weights are likelihoods, so they need no thresholds: the chance that trouble crosses that edge, times the
density of the delay, times how usual this alertname is for a passed-on symptom; against the rate at which this vertex
and this alertname fire by themselves. Both sides are learned from the stream, with decay:

- what names are passed on and what names stand at the origin of an incident (so a name is worth what history says of
  it, nothing is read from its spelling);
- how often a pair (vertex, alertname) fires alone: chronic pairs need better company, and open no incident;
- how much of a vertex's callers follow it down (silence of the others is evidence against it);
- how often trouble crosses an edge, in either direction, and how long it takes (passages.py);
- whether incidents come in bursts.

Enter: alerts and their ends, verdicts, time. Leave: placements with a reason, merges and moves. Everything is
deterministic; time comes with the call; no alert is held back. What arrives within one second has no order: each alert
gets a first placement at once, and when the second is over all of it is taken in by onset, so that a burst means the
same in any order; what that changes follows as revisions. What runs on one node or zone is related through it
(layers.py). When things have ended, whole incidents are weighed against each other (story.py, hindsight.py): what no
pair of troubles sees, all of them together may show. The cost of an alert grows with the troubles of the last minutes
in its neighbourhood, not with what is open, nor with what runs on its node or in its zone.
"""

from aiopsd.correlate.grouping.grouper import Grouper
from aiopsd.correlate.grouping.state import Placement, Revision

__all__ = ("Grouper", "Placement", "Revision")
