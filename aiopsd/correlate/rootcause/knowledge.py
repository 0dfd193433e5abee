"""What history and operators know, as ranking takes it."""

from collections.abc import Mapping

import msgspec

EVEN = 0.5  # chance that a name of which nobody knows anything is passed on
SHATTER = 0.15  # share of incidents that prove to be pieces of others before anything is known; streams show .07 to .5


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """What history and operators know: see `Grouper.knowledge`.

    `origin`: alertname -> log-ratio of its share at origins of incidents to its share among passed-on symptoms.
    `causes`: vertex -> how often operators confirmed it as a cause, minus how often they named another one.
    `local`: alertname -> log-odds that in an incident of several only one vertex has it, of names seen at several.
    `travels`: alertname -> chance that it is one that is passed on, by what was learned, its role or its words.
    `shatter`: share of the incidents of this place that turned out to be pieces of others.
    `company`: how many other incidents opened shortly before this one.
    `trust`: log-odds by which the first cause is right more often here than it is elsewhere, as operators said.
    `hosted`: node or zone -> vertices that labels of alerts have placed there, whether in this incident or before.
    """

    origin: dict[str, float] = {}
    causes: dict[str, float] = {}
    hosted: Mapping[str, Mapping[str, None]] = {}
    local: dict[str, float] = {}
    travels: dict[str, float] = {}
    shatter: float = SHATTER
    company: int = 0
    trust: float = 0.0
