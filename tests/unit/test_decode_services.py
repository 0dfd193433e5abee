"""Which service a label set belongs to."""

import pytest

from aiopsd.config import ServiceRule, ServicesConfig
from aiopsd.errors import ConfigError
from aiopsd.services import CACHE_LIMIT, ServiceMapper


def rule(service: str, **match: str) -> ServiceRule:
    return ServiceRule(match=match, service=service)


@pytest.mark.parametrize(
    ("labels", "service"),
    [
        ({"service": "cart", "job": "node"}, "cart"),
        ({"job": "node"}, "node"),
        ({"service": "", "app": "shop"}, "shop"),
        ({"instance": "10.0.0.1"}, ""),
        ({}, ""),
    ],
)
def test_the_first_configured_label_that_is_there_names_the_service(labels: dict[str, str], service: str) -> None:
    """Without rules, the first label with a value wins, in the configured order."""
    assert service == ServiceMapper(ServicesConfig()).service(labels)


def test_rules_come_before_labels_and_in_order() -> None:
    """The first rule whose matchers all match decides, even when a label names another service."""
    rules = (rule("a", job="x", zone="z"), rule("b", job="x"), rule("c", job=".*"))
    mapper = ServiceMapper(ServicesConfig(rules=rules))

    assert "a" == mapper.service({"job": "x", "zone": "z", "service": "other"})
    assert "b" == mapper.service({"job": "x"})
    assert "c" == mapper.service({"service": "other"})  # a label that is not there is the empty text


def test_matchers_are_anchored() -> None:
    """A matcher has to match the whole value, as in Prometheus."""
    mapper = ServiceMapper(ServicesConfig(rules=(rule("db", job="postgres"),), labels=()))

    assert "" == mapper.service({"job": "postgres-exporter"})


def test_templates_take_groups_then_labels() -> None:
    """`$name` is a named group of the rule's matchers, else a label; `$$` is a dollar sign; an unset one is empty."""
    rules = (rule("${app}-$zone$missing$$", pod="(?P<app>[a-z]+)-[0-9a-f]+"),)
    mapper = ServiceMapper(ServicesConfig(rules=rules))

    assert "cart-eu$" == mapper.service({"pod": "cart-77ff", "zone": "eu", "app": "not this"})


def test_a_rule_that_gives_nothing_is_passed_over() -> None:
    """A template that comes out empty leaves the decision to the next rule or to the labels."""
    mapper = ServiceMapper(ServicesConfig(rules=(rule("$owner", job=".*"),)))

    assert "node" == mapper.service({"job": "node"})


def test_strip_then_aliases() -> None:
    """Of a label's value `strip` keeps the group; aliases rename whatever was found, by label or by rule."""
    config = ServicesConfig(
        rules=(rule("legacy", kind="old"),),
        strip=("(.+)-v[0-9]+", "team/(.+)"),
        aliases={"cart": "basket", "legacy": "basket"},
    )
    mapper = ServiceMapper(config)

    assert "orders" == mapper.service({"app": "team/orders"})
    assert "basket" == mapper.service({"app": "cart-v12"}) == mapper.service({"kind": "old"})


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (ServicesConfig(rules=(rule("a"), rule("b", job="("))), "$.services.rules[1].match.job"),
        (ServicesConfig(strip=("a", "(b)(c)")), "$.services.strip[0]"),
        (ServicesConfig(strip=(r"(a)\1",)), "$.services.strip[0]"),
    ],
)
def test_a_broken_expression_names_its_key(config: ServicesConfig, path: str) -> None:
    """What is not RE2, or not one group, is a configuration error at that key."""
    with pytest.raises(ConfigError) as caught:
        ServiceMapper(config)

    assert path == caught.value.path


def test_the_cache_is_bounded_and_never_wrong() -> None:
    """More label sets than the cache holds give the same answers as a fresh mapper."""
    mapper = ServiceMapper(ServicesConfig())
    for i in range(CACHE_LIMIT + 10):
        mapper.service({"service": f"s{i}"})

    assert len(mapper._cache) <= CACHE_LIMIT
    assert ["s0", "s3", ""] == [mapper.service(x) for x in ({"service": "s0"}, {"service": "s3"}, {"a": "b"})]
