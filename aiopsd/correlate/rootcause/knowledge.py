"""What history and operators know, as ranking takes it."""

from collections.abc import Mapping

import msgspec


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """What history and operators know: see `Grouper.knowledge`.

    `origin`: alertname -> log-ratio of its share at origins of incidents to its share among passed-on symptoms.
    `causes`: vertex -> how often operators confirmed it as a cause, minus how often they named another one.
    `local`: alertname -> log-odds that in an incident of several only one vertex has it, of names seen at several.
    `trust`: log-odds by which the first cause is right more often here than it is elsewhere, as operators said.
    `hosted`: node or zone -> vertices that labels of alerts have placed there, whether in this incident or before.
    """

    origin: dict[str, float] = {}
    causes: dict[str, float] = {}
    hosted: Mapping[str, Mapping[str, None]] = {}
    local: dict[str, float] = {}
    trust: float = 0.0
