"""What KafkaStream decides without a broker: its configuration, and when dead letters have to end."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopsd import plugins
from aiopsd.config import plugin_config
from aiopsd.errors import ConfigError
from aiopsd.streams.kafka import DeadLetterBudget, KafkaConfig, KafkaStream

PATH = "$.sources[0].kafka"
HERE = {"bootstrap_servers": ["kafka:9092"], "topic": "metrics"}


def config(**options: Any) -> KafkaConfig:
    return plugin_config(KafkaConfig, {**HERE, **options}, PATH)


def test_it_is_found_by_name() -> None:
    """`kafka` of a source leads through the entry point to this class and its Config."""
    assert KafkaStream is plugins.load("streams", "kafka")
    assert KafkaConfig is KafkaStream.Config


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"bootstrap_servers": []}, "`bootstrap_servers` is empty"),
        ({"topic": ""}, "`topic` is empty"),
        ({"security_protocol": "SASL_SSL"}, "needs `sasl_username` and `sasl_password`"),
        ({"security_protocol": "TLS"}, "Invalid enum value 'TLS'"),
        ({"compression_type": "brotli"}, "Invalid enum value 'brotli'"),
        ({"dead_letter_topic": "metrics"}, "is the topic itself"),
        ({"session_timeout": 10}, "not a duration"),
        ({"tls": {"ca": "x"}}, "unknown field `ca`"),
        ({"bootstrap_server": "x"}, "unknown field `bootstrap_server`"),
    ],
)
def test_a_wrong_configuration_names_its_key(options: dict[str, Any], complaint: str) -> None:
    """Each mistake is refused at load with what is wrong and where."""
    with pytest.raises(ConfigError, match=complaint) as refused:
        config(**options)

    assert refused.value.path.startswith(PATH)


def test_passwords_are_not_shown() -> None:
    """The password is in no repr."""
    secret = config(security_protocol="SASL_SSL", sasl_username="u", sasl_password="hunter2")

    assert "hunter2" not in repr(secret)
    assert secret.sasl_password is not None
    assert "hunter2" == secret.sasl_password.reveal()


def test_names_follow_from_what_is_given() -> None:
    """The dead-letter topic and the group have names of their own unless they are given."""
    plain, named = config(), config(dead_letter_topic="refused", group_id="team-a")

    assert ("metrics.dead", "refused") == (plain.dead_letters, named.dead_letters)
    assert "aiopsd-shop" == KafkaStream(plain, "shop", "json").group_id
    assert "team-a" == KafkaStream(named, "shop", "json").group_id


def test_few_bad_records_never_stop_a_source() -> None:
    """Up to the rate, even a topic of nothing but bad records is let through."""
    budget = DeadLetterBudget(rate=10, share=0.5)
    budget.count(0.0, read=10)

    assert not budget.exceeded(10)
    assert budget.exceeded(11)


def test_a_small_share_never_stops_a_source() -> None:
    """Beyond the rate, the share decides: one in a hundred is bad records, one in two is a wrong topic."""
    budget = DeadLetterBudget(rate=10, share=0.5)
    budget.count(0.0, read=1000, refused=400)

    assert not budget.exceeded(100)
    assert budget.exceeded(101)


def test_a_minute_forgives() -> None:
    """What was refused a minute ago does not count any more, nor does what was read."""
    budget = DeadLetterBudget(rate=10, share=0.5)
    budget.count(0.0, read=100, refused=100)
    budget.count(59.0)
    before = (budget.read, budget.refused)
    budget.count(60.0, read=1)

    assert (100, 100) == before
    assert (1, 0) == (budget.read, budget.refused)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50), st.integers(0, 50)), max_size=60))
def test_the_window_is_the_sum_of_the_last_minute(steps: list[tuple[float, int, int]]) -> None:
    """At any time the counts are those of the last 60 whole seconds, however they came."""
    budget = DeadLetterBudget(rate=10, share=0.5)
    now, history = 0.0, list[tuple[int, int, int]]()

    for pause, read, refused in steps:
        now += pause
        budget.count(now, read=read, refused=refused)
        history.append((int(now), read, refused))
        young = [(r, f) for second, r, f in history if second > int(now) - 60]

        assert (sum(r for r, _ in young), sum(f for _, f in young)) == (budget.read, budget.refused)
