"""Which service a label set belongs to: the one place where labels become a service, for metrics as for alerts."""

import re
from collections.abc import Mapping
from functools import partial

from aiopsd.config import ServicesConfig
from aiopsd.errors import ConfigError
from aiopsd.matchers import configured

CACHE_LIMIT = 65_536  # label combinations; beyond it the cache starts afresh, which costs only time

_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+)|\$)")


class ServiceMapper:
    """Maps label sets to service names by the `services` section of the configuration.

    In this order: the first rule whose matchers all match and whose template is not empty; else the first of the
    configured labels that is there, cut by the first `strip` expression that matches its value. An alias of the result
    then replaces it. A label that is not there is the empty text, for matchers too (as in Prometheus).

    In a template `$name` or `${name}` is the named group of a matcher of that rule, else the label of that name;
    `$$` is a dollar sign.

    Raises:
        ConfigError: an expression is not RE2, or a `strip` has not exactly one group; names the key.
    """

    def __init__(self, config: ServicesConfig) -> None:
        self.config = config
        path = "$.services"
        self._rules = []
        wanted = list(config.labels)
        for i, rule in enumerate(config.rules):
            matchers = [
                (name, configured(text, f"{path}.rules[{i}].match.{name}")) for name, text in sorted(rule.match.items())
            ]
            groups = {g for _, matcher in matchers for g in matcher.groupindex}
            self._rules.append((matchers, rule.service))
            wanted += [name for name, _ in matchers]
            named = [braced or bare for braced, bare in _REFERENCE.findall(rule.service)]
            wanted += [name for name in named if name and name not in groups]
        self._strips = [configured(text, f"{path}.strip[{i}]") for i, text in enumerate(config.strip)]
        for i, strip in enumerate(self._strips):
            if strip.groups != 1:
                raise ConfigError(f"`strip` needs exactly one group, this has {strip.groups}", f"{path}.strip[{i}]")
        self._wanted = tuple(dict.fromkeys(wanted))  # the labels that can decide anything: the key of the cache
        self._cache: dict[tuple[str | None, ...], str] = {}
        self._possible: dict[tuple[str, str], list[int]] = {}  # names -> rules that they do not rule out
        self.routes: dict[bytes, int] = {}  # label bytes -> number of the service; cache of decode.remote_write.split

    def service(self, labels: Mapping[str, str]) -> str:
        """The service of a label set; "" when nothing maps it."""
        get = labels.get
        key = tuple([get(name) for name in self._wanted])
        found = self._cache.get(key)
        if found is None:
            found = self._find(labels)
            if len(self._cache) >= CACHE_LIMIT:
                self._cache.clear()
            self._cache[key] = found
        return found

    def _find(self, labels: Mapping[str, str]) -> str:
        name = self._by_rule(labels) or self._by_label(labels)
        return self.config.aliases.get(name, name)

    def _by_rule(self, labels: Mapping[str, str]) -> str:
        for i in self._candidates(labels) if self._rules else ():
            matchers, template = self._rules[i]
            values: dict[str, str] = {}
            for label, matcher in matchers:
                match = matcher.fullmatch(labels.get(label, ""))
                if match is None:
                    break
                values.update((k, v or "") for k, v in match.groupdict().items())
            else:
                name = _REFERENCE.sub(partial(_fill, values=values, labels=labels), template)
                if name:
                    return name
        return ""

    def _candidates(self, labels: Mapping[str, str]) -> list[int]:
        """Names of metrics and alerts are few and most rules ask for one: what they rule out is found out once."""
        names = labels.get("__name__", ""), labels.get("alertname", "")
        found = self._possible.get(names)
        if found is None:
            if len(self._possible) >= CACHE_LIMIT:
                self._possible.clear()
            asked = dict(zip(("__name__", "alertname"), names, strict=True))
            found = self._possible[names] = [
                i
                for i, (matchers, _) in enumerate(self._rules)
                if all(m.fullmatch(asked[label]) is not None for label, m in matchers if label in asked)
            ]
        return found

    def _by_label(self, labels: Mapping[str, str]) -> str:
        for label in self.config.labels:
            value = labels.get(label)
            if value:
                for strip in self._strips:
                    match = strip.fullmatch(value)
                    if match is not None and match.group(1):
                        return str(match.group(1))
                return value
        return ""


def _fill(reference: "re.Match[str]", values: Mapping[str, str], labels: Mapping[str, str]) -> str:
    name = reference.group(1) or reference.group(2)
    if name is None:
        return "$"
    return values[name] if name in values else labels.get(name, "")


def references(template: str) -> list[str]:
    """The names that a template refers to."""
    return [name for braced, bare in _REFERENCE.findall(template) if (name := braced or bare)]


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with `$name` and `${name}` replaced; a name without a value is empty, `$$` a dollar sign."""
    return _REFERENCE.sub(lambda m: _fill(m, {}, values), template)
