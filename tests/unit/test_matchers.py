"""Conditions on labels: grammars, meaning, and what is refused in both voices."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd import maintenance, silences
from aiopsd.errors import ConfigError
from aiopsd.matchers import Fault, Match, Matchers, fault, matcher_text, parse_matcher, parse_matchers
from aiopsd.model import Matcher, PutMaintenance, PutSilence


@pytest.mark.parametrize(
    ("text", "name", "value", "regex", "equal"),
    [
        ('a="b"', "a", "b", False, True),
        ("a=b", "a", "b", False, True),
        (' a != "b" ', "a", "b", False, False),
        ('a=~"b|c"', "a", "b|c", True, True),
        ("a!~b.*", "a", "b.*", True, False),
        (r'a="say \"hi\"\n\\"', "a", 'say "hi"\n\\', False, True),
        (r'a=~"\d+"', "a", r"\d+", True, True),  # a spurious escape stays as written
        ('a=""', "a", "", False, True),
        ("a=", "a", "", False, True),
        ('a="x,y"', "a", "x,y", False, True),
        ('"ü name"="b"', "ü name", "b", False, True),
        ("größe=b", "größe", "b", False, True),
        (r'"\u00fc"="\x41"', "ü", "A", False, True),
        ("a.b=c", "a.b", "c", False, True),
    ],
)
def test_both_grammars_are_read(text: str, name: str, value: str, regex: bool, equal: bool) -> None:
    """A matcher text of Alertmanager's classic or UTF-8 grammar reads as it does there."""
    assert Matcher(name=name, value=value, is_regex=regex, is_equal=equal) == parse_matcher(text)


@pytest.mark.parametrize("text", ["", "a", "=b", 'a="b', 'a=b"', 'a="b"c"', 'a="b" c="d"', 'a=~"("', "a=b,c=d"])
def test_what_is_no_matcher_is_refused(text: str) -> None:
    """A text that is not exactly one matcher, or whose regex is not RE2, raises ValueError."""
    with pytest.raises(ValueError):
        parse_matcher(text)


def test_lists_take_braces_and_trailing_commas() -> None:
    """Matchers are separated by commas outside quotes, with or without braces."""
    found = parse_matchers('{a="1,2", b=~"x|y",}')

    assert [("a", "1,2"), ("b", "x|y")] == [(m.name, m.value) for m in found]
    assert () == parse_matchers("{}")


@settings(max_examples=200)
@given(st.text(min_size=1), st.text(), st.booleans())
def test_a_written_matcher_reads_back(name: str, value: str, equal: bool) -> None:
    """matcher_text and parse_matcher are each other's inverse, for any name and value."""
    matcher = Matcher(name=name, value=value, is_regex=False, is_equal=equal)

    assert matcher == parse_matcher(matcher_text(matcher))


def test_regexes_are_anchored_and_linear() -> None:
    """A regex must match the whole value, and a pattern that makes backtracking engines hang answers at once."""
    assert not Matchers(parse_matchers('a=~"b"')).matches({"a": "abc"})
    assert Matchers(parse_matchers('a=~"b|abc"')).matches({"a": "abc"})
    assert not Matchers(parse_matchers('a=~"(x+x+)+y"')).matches({"a": "x" * 5000})


def test_a_missing_label_is_an_empty_one() -> None:
    """`a=""` and `a!="b"` match a set without the label."""
    assert Matchers(parse_matchers('a="",b!="c",d=~".*"')).matches({})
    assert not Matchers(parse_matchers('a!=""')).matches({})


def test_a_dot_is_a_line_break_in_the_configuration_only() -> None:
    """A label may hold a line break: our own rules match it as Prometheus 3 does, matchers as Alertmanager does."""
    assert Match({"a": "x.y"})({"a": "x\ny"})
    assert not Matchers(parse_matchers('a=~"x.y"')).matches({"a": "x\ny"})


def test_a_bad_expression_of_the_configuration_is_named_by_its_key() -> None:
    """What does not compile says where it stands."""
    with pytest.raises(ConfigError, match="missing") as caught:
        Match({"a": "b", "c": "("}, "$.detect.thresholds[1].match")
    assert caught.value.path == "$.detect.thresholds[1].match.c"


PLAIN = Matcher(name="a", value="b")


@pytest.mark.parametrize(
    ("matchers", "found"),
    [
        ((), (Fault.NONE, 0)),
        ((PLAIN, Matcher(name="", value="b")), (Fault.NAMELESS, 1)),
        ((PLAIN, PLAIN, Matcher(name="a", value="(", is_regex=True)), (Fault.PATTERN, 2)),
        ((Matcher(name="a", value=".*", is_regex=True),), (Fault.EVERYTHING, 0)),
        ((Matcher(name="a", value="b", is_equal=False),), (Fault.EVERYTHING, 0)),
        ((PLAIN, Matcher(name="c", value="")), None),
    ],
)
def test_silences_and_maintenance_refuse_the_same_matchers(
    matchers: tuple[Matcher, ...], found: tuple[Fault, int] | None
) -> None:
    """One checker, two voices: what a silence cannot have, a window of maintenance cannot have either."""
    told = fault(matchers)
    assert (told and told[:2]) == found
    silence = PutSilence(request_id="r", matchers=matchers, starts_at=0.0, ends_at=9.0)
    window = PutMaintenance(request_id="r", matchers=matchers, starts_at=0.0, ends_at=9.0, created_by="x")
    assert (silences.problem(silence, 1.0) is None) == (maintenance.problem(window, 1.0) is None) == (found is None)
