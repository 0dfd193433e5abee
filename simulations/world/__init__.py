"""A seeded microservice world in virtual time: load, queueing, calls, faults; metrics, alerts and changes come out.

A `Scenario` (YAML) goes in, chunks of columns come out: metrics every `step`, the requests a Prometheus would send to
an Alertmanager, change events, and apart from them the truth. The world knows nothing of aiopsd's stages; wire.py
turns its columns into bytes.

What is modelled, per step and service:

* load: daily and weekly curve with autocorrelated noise on the entry points; calls fan out along the call graph, and a
  service that fails early calls nobody, so traffic is lost downstream of a fault;
* queueing: utilisation = rate / capacity; own latency grows as in an M/M/1 queue; past capacity requests are shed;
* latency adds up along calls (capped by the caller's timeout), errors climb to callers unless the call is optional or
  retried, retries add load to the callee, and requests that wait hold workers (Little's law): a slow callee can
  exhaust its caller;
* nodes: services share the CPU of the nodes they run on; above 80 % everybody on the node slows down;
* memory: a leak ends in an out-of-memory kill, a restart, and begins again.

What a fault does is local (see `FaultSpec`); everything else follows from the physics above. `affected` in the truth
is computed, not assumed: the same world with the same noise is run without the fault, and who differs was affected.

`scenario` is the file that describes a world, `topology` makes up the services of one that lists none, `physics` lives
it, `alerting` sees it as Prometheus' rules do, and `pages` counts what somebody else would have paged.
"""

from simulations.world.alerting import RULES, Rule, iso
from simulations.world.pages import pages_without
from simulations.world.physics import Chunk, Effects, Physics, Truth, World
from simulations.world.scenario import (
    BackgroundSpec,
    CallSpec,
    FaultKind,
    FaultSpec,
    LoadSpec,
    Scenario,
    ServiceSpec,
    TopologySpec,
    load_scenario,
    scenario,
)
from simulations.world.topology import generate

__all__ = (
    "RULES", "BackgroundSpec", "CallSpec", "Chunk", "Effects", "FaultKind", "FaultSpec", "LoadSpec", "Physics", "Rule",
    "Scenario", "ServiceSpec", "TopologySpec", "Truth", "World", "generate", "iso", "load_scenario", "pages_without",
    "scenario",
)  # fmt: skip
