"""What the stage is composed of: every part with rules or a memory of its own, built and kept together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiopsd.config import Config
from aiopsd.correlate.grouping import Grouper
from aiopsd.correlate.pieces import Pieces
from aiopsd.correlate.trust import Trust
from aiopsd.correlate.verdicts import Verdicts
from aiopsd.maintenance import MaintenanceBook
from aiopsd.pipeline.correlate.tellers import Tellers
from aiopsd.retraining import Retraining
from aiopsd.routing import Dispatcher
from aiopsd.rules import Rules
from aiopsd.services import ServiceMapper
from aiopsd.silences import SilenceBook
from aiopsd.topology import Topology


@dataclass(frozen=True, slots=True)
class Parts:
    """Rules and services follow from the configuration; what the others remember is in the snapshot by their names."""

    rules: Rules
    services: ServiceMapper
    topology: Topology
    grouper: Grouper
    silences: SilenceBook
    maintenance: MaintenanceBook
    dispatcher: Dispatcher
    retraining: Retraining
    verdicts: Verdicts
    trust: Trust
    pieces: Pieces
    tellers: Tellers

    def snapshot(self) -> dict[str, Any]:
        """The memory of each, as plain data."""
        return {
            "topology": self.topology.snapshot(),
            "grouper": self.grouper.snapshot(),
            "silences": self.silences.snapshot(),
            "maintenance": self.maintenance.snapshot(),
            "dispatcher": self.dispatcher.snapshot(),
            "retraining": self.retraining.snapshot(),
            "verdicts": self.verdicts.snapshot(),
            "trust": self.trust.snapshot(),
            "pieces": self.pieces.snapshot(),
            "tellers": self.tellers.snapshot(),
        }


def compose(config: Config, state: Mapping[str, Any]) -> Parts:
    """The parts, new or from the `snapshot` of earlier ones.

    Raises:
        ConfigError: a matcher, route or rule of the configuration is wrong.
    """
    rules = Rules(config.packs)  # first: a broken pack is told with its line
    topology = Topology(config.topology.stale_after, state.get("topology"))
    silences = SilenceBook(state.get("silences"))
    return Parts(
        rules=rules,
        services=ServiceMapper(config.services),
        topology=topology,
        grouper=Grouper(config.correlate, topology, state.get("grouper")),
        silences=silences,
        maintenance=MaintenanceBook(state.get("maintenance")),
        dispatcher=Dispatcher(config, silences, state.get("dispatcher")),
        retraining=Retraining(config.retraining, state.get("retraining")),
        verdicts=Verdicts(state.get("verdicts")),
        trust=Trust(state.get("trust")),
        pieces=Pieces(state.get("pieces")),
        tellers=Tellers(state.get("tellers")),
    )
