"""What `detect` and each of `detect.policies` want, in the words of those that do it: bank, join, silence."""

from collections.abc import Mapping

import msgspec

from aiopsd.config import DetectConfig, PolicyRule
from aiopsd.detect.bank import Policy
from aiopsd.detect.join import JoinPolicy
from aiopsd.errors import ConfigError
from aiopsd.matchers import Match, seen_of

MOST = 255  # a row keeps the number of its policy in a byte


class Policies:
    """Number 0 is what holds for all series, number i + 1 is the i-th policy; the first that matches holds.

    Attributes:
        bank, joins, no_data, still, adopt: by number; `no_data` and `still` in seconds, 0: off; `adopt` in seconds,
            None: as for all.

    Raises:
        ConfigError: a matcher cannot be used, or there are too many policies.
    """

    def __init__(self, config: DetectConfig) -> None:
        rules = config.policies
        self._matches = [Match(rule.match, f"$.detect.policies[{i}].match") for i, rule in enumerate(rules)]
        if len(rules) > MOST:
            raise ConfigError(f"at most {MOST} policies", "$.detect.policies")
        bank = Policy(memory=config.memory, growth=config.growth, warm_seconds=config.warmup)
        join = JoinPolicy(
            threshold=config.threshold,
            min_duration=config.min_duration,
            resolve_after=config.resolve_after,
            theta=bank.theta,
            by_series=config.join == "series",
        )
        self.bank = [bank, *(_bank(rule, bank) for rule in rules)]
        self.joins = [join, *(_join(rule, join) for rule in rules)]
        self.no_data = [config.no_data, *(config.no_data if r.no_data is None else r.no_data for r in rules)]
        self.still = [config.flatline, *(config.flatline if r.flatline is None else r.flatline for r in rules)]
        self.adopt = [None, *(rule.adopt_after for rule in rules)]

    def __bool__(self) -> bool:
        """Whether any series may have a policy of its own."""
        return bool(self._matches)

    def of(self, labels: Mapping[str, str], service: str) -> int:
        """Number of the policy that holds for a series."""
        given = seen_of(labels, service)
        return next((i for i, matches in enumerate(self._matches, 1) if matches(given)), 0)


def _bank(rule: PolicyRule, base: Policy) -> Policy:
    return msgspec.structs.replace(
        base,
        growth=base.growth if rule.growth is None else rule.growth,
        memory=base.memory if rule.memory is None else float(rule.memory),
        warm_seconds=base.warm_seconds if rule.warmup is None else float(rule.warmup),
    )


def _join(rule: PolicyRule, base: JoinPolicy) -> JoinPolicy:
    return msgspec.structs.replace(
        base,
        threshold=base.threshold if rule.threshold is None else rule.threshold,
        min_duration=base.min_duration if rule.min_duration is None else float(rule.min_duration),
        resolve_after=base.resolve_after if rule.resolve_after is None else float(rule.resolve_after),
    )
