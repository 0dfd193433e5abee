"""The configuration file: what is wrong is said with file, line and key."""

from pathlib import Path

import pytest

from aiopsd.cli import main
from aiopsd.config import located, read
from aiopsd.errors import ConfigError


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("route: {}\nhttp: {}\nroute: {}\n", "c.yaml:3: `route` is given twice"),
        ("http:\n  listen: a\n  listen: b\n", "c.yaml:3: `listen` is given twice"),
        ("data_dir: x\nhtp: {}\n", "c.yaml:2: Object contains unknown field `htp` - at `$`"),
        ("detect:\n  threshold: 0.5\n  memory: soon\n", "c.yaml:3: not a duration: 'soon'"),
        ("receivers: []\nroute:\n  receiver: nobody\n", "c.yaml:3: unknown receiver `nobody` - at `$.route.receiver`"),
        ("route: {\n", "c.yaml:2: not YAML"),
        ("http:\n  {listen}: a\n", "c.yaml:2: a list or a mapping where a key is expected"),
        ("data_dir: 2026-13-45\n", "c.yaml:1: not YAML"),
        ("detect:\n  threshold: 7\n", "c.yaml:2: Expected `float` < 1.0 - at `$.detect.threshold`"),
        ("detect:\n  policies:\n    - match: {a: b}\n      growth: -1\n", "c.yaml:4: Expected `float` >= 0.0 - at"),
        ("detect:\n  online:\n    - lags: -1\n", "c.yaml:3: Expected `int` >= 0 - at `$.detect.online[0].lags`"),
        (
            "global: {}\n",
            "c.yaml:1: Object contains unknown field `global` (of Alertmanager: docs/how-to/from-alertmanager",
        ),
        (
            "route:\n  routes:\n    - receiver: a\n      match: {a: 1}\nreceivers: [{name: a}]",
            "c.yaml:4: Expected `str`, got `int` (quote it)",
        ),
        ("workers: -1\n", "c.yaml:1: Expected `int` >= 0 - at `$.workers`"),
    ],
)
def test_a_fault_is_told_with_file_line_and_key(tmp_path: Path, text: str, said: str) -> None:
    """Whoever edits the file at night is led to the line."""
    (tmp_path / "c.yaml").write_text(text)

    assert f"{tmp_path}/{said}" in complaint(tmp_path / "c.yaml")


def test_a_fault_in_a_folder_is_told_with_the_fragment(tmp_path: Path) -> None:
    """Of several fragments, the one that says it; what two fragments say is told where it stands the second time."""
    (tmp_path / "a.yaml").write_text("http: {listen: x}\n")
    (tmp_path / "b.yaml").write_text("\ndetect: {threshhold: 1}\n")
    wrong = complaint(tmp_path)
    (tmp_path / "b.yaml").write_text("\nhttp: {listen: y}\n")
    twice = complaint(tmp_path)

    assert f"{tmp_path}/b.yaml:2: Object contains unknown field `threshhold`" in wrong
    assert f"{tmp_path}/b.yaml:2: `listen` is given in another fragment too - at `$.http.listen`" in twice


def test_fragments_are_one_configuration(tmp_path: Path) -> None:
    """Lists are joined and mappings merged; the text that comes with it is complete."""
    (tmp_path / "a.yaml").write_text("receivers: [{name: a}]\nhttp: {listen: x}\n")
    (tmp_path / "b.yaml").write_text("receivers: [{name: b}]\nhttp: {max_pushes: 3}\n")
    config, text = read(tmp_path)
    (tmp_path / "whole.yaml").write_text(text)

    assert [r["name"] for r in config.receivers] == ["a", "b"]
    assert (config.http.listen, config.http.max_pushes) == ("x", 3)
    assert read(tmp_path / "whole.yaml")[0] == config


def test_what_is_wrong_in_use_is_told_with_its_line_too(tmp_path: Path) -> None:
    """An error of a stage names a key; the line is looked up in the file, or in the fragment that has the key."""
    (tmp_path / "a.yaml").write_text("route: {}\n")
    (tmp_path / "b.yaml").write_text("detect:\n  policies:\n    - match:\n        a: '('\n")
    wrong = ConfigError("not an RE2 expression", "$.detect.policies[0].match.a")

    assert f"{tmp_path}/b.yaml:4: not an RE2 expression - at" in str(located(tmp_path, wrong))
    assert f"{tmp_path}/b.yaml:4: not an RE2 expression - at" in str(located(tmp_path / "b.yaml", wrong))
    assert str(located(tmp_path / "none.yaml", wrong)) == str(wrong)


def test_a_deprecated_key_is_noted_with_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """check-config takes Alertmanager's old matchers, names each with its line, and gives the new ones to copy."""
    (tmp_path / "c.yaml").write_text(
        """receivers: [{name: a}]
route:
  receiver: a
  routes:
    - match_re: {service: "foo|o'bar"}
      match: {severity: page, team: b}
inhibit_rules:
  - source_match: {severity: critical}
    target_match_re: {severity: warn.*}
"""
    )

    assert main(["check-config", "-c", str(tmp_path / "c.yaml")]) == 0
    said = [line.partition("c.yaml:")[2].partition(" - at")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        """6: `match` is deprecated: write matchers: ['severity="page"', 'team="b"']""",
        """5: `match_re` is deprecated: write matchers: ['service=~"foo|o''bar"']""",
        """8: `source_match` is deprecated: write source_matchers: ['severity="critical"']""",
        """9: `target_match_re` is deprecated: write target_matchers: ['severity=~"warn.*"']""",
    ]
