"""Which service, node or change is the cause: every symptom is blame that flows to what explains it ("blame flow").

Each symptom starts as blame on its own vertex. A vertex hands on what its callees explain: the more, the stronger and
the earlier their own symptoms of that kind, the more they add to it; vertices that say nothing are looked through.
What is not handed on stays, and trouble of its own (a resource, an alert that history finds at origins) adds to it.
The blame that a vertex holds in the end is its score. Works with alerts alone, with metric evidence alone, or both.

What a vertex shows is read in symptoms.py (nameless.py: of metrics whose names tell nothing), the flow is flow.py;
unsaid.py finds causes that say nothing or are in no graph, missing.py calls that the graph may lack, load.py who sends
load down; ranking.py puts all of it in order, certainty.py says how sure that is, explanation.py why.

What enters is alerts, evidence, changes, the graph; what leaves is candidates, each with the chain of shares that leads
from the symptom to it. No clock, no state, no chance: the same sets give the same ranking in any order.
"""

from aiopsd.correlate.rootcause.certainty import SIGNS, confidence
from aiopsd.correlate.rootcause.knowledge import Knowledge
from aiopsd.correlate.rootcause.nameless import recognised
from aiopsd.correlate.rootcause.ranking import rank
from aiopsd.correlate.rootcause.symptoms import Heard

__all__ = ("SIGNS", "Heard", "Knowledge", "confidence", "rank", "recognised")
