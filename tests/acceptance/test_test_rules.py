"""`aiopsd test-rules` on the packs that are shipped, and on packs that are wrong."""

from pathlib import Path

import pytest

from aiopsd.cli import main
from aiopsd.config import pack_folders, read, read_pack
from aiopsd.rules import load_tests
from aiopsd.testrules import config_of, failures, play

RULES = Path(__file__).resolve().parents[2] / "rules"
PACKS = pack_folders(RULES)

TESTS = """\
tests:
  - name: quiet
    series:
      - {series: 'vim{service="a"}', values: "100~2x199"}
    alerts:
      - {labels: {alertname: Slow, service: a}, at: 10m, until: 30m}
    expect:
      must_fire: [{service: a}]
      incidents: 2
      root: b
      suppressed:
        - {alertname: Slow}
      told: [{alertname: Never}]
      alerts:
        - match: {alertname: Slow}
          role: cause
          annotations: {owner: me}
  - name: loud
    series:
      - {series: 'vim{service="a"}', values: "100~2x179 900~2x20"}
    expect:
      must_fire:
        - {service: a, direction: high}
        - {service: a, direction: low}
      must_stay_silent:
        - {service: b}
        - {metric: vim}
"""


def test_the_shipped_packs_do_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Every test of every pack passes, with one line for each."""
    assert main(["test-rules", str(RULES)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(PACKS) >= 6
    assert {line.split(":")[0] for line in lines[:-1]} == {f"ok    {p.name}" for p in PACKS}
    assert lines[-1] == f"{len(lines) - 1} passed, 0 failed"


@pytest.mark.parametrize("folder", PACKS, ids=lambda p: p.name)
def test_a_shipped_pack_matters(folder: Path) -> None:
    """A pack shows what must fire and what must stay silent, has a page for its users, and without it tests fail."""
    tests, _ = load_tests((folder / "tests.yaml").read_text(), "tests.yaml")
    assert any(t.expect.must_fire for t in tests.tests)
    assert any(t.expect.must_stay_silent for t in tests.tests)
    assert any(t.expect.suppressed for t in tests.tests)
    assert (folder / "README.md").read_text().startswith("# ")
    assert read_pack(folder).name == folder.name
    config = config_of([], tests.config)
    failing = [t.name for t in tests.tests if any(failures(t, play(t, config)))]
    assert len(failing) >= 2


def test_all_packs_together(tmp_path: Path) -> None:
    """The packs do not disturb each other: with all of them loaded, the tests of each pass as well."""
    (tmp_path / "aiopsd.yaml").write_text(f"rules: [{RULES}]\n")
    packs = read(tmp_path / "aiopsd.yaml")[0].packs
    for folder in PACKS:
        tests, _ = load_tests((folder / "tests.yaml").read_text(), "tests.yaml")
        config = config_of(packs, tests.config)
        for test in tests.tests:
            assert list(failures(test, play(test, config))) == [], (folder.name, test.name)


def test_what_fails_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each expectation that does not hold is one line with file:line, what was there instead, and exit code 1."""
    (tmp_path / "rules.yaml").write_text("alerts: [{match: {alertname: Slow}, role: symptom}]\n")
    (tmp_path / "tests.yaml").write_text(TESTS)
    assert main(["test-rules", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    file = tmp_path / "tests.yaml"
    for line, what in (
        (8, "no anomaly of service a; there were: none"),
        (9, "1 incidents, expected 2"),
        (10, "root is 'a', expected 'b'"),
        (12, "a page told of it"),
        (13, 'no alert with alertname="Never" fired'),
        (16, "role is 'symptom', expected 'cause'"),
        (17, "owner is '', expected 'me'"),
        (24, "no anomaly of service a, direction low; there were: a vim high"),
        (27, "an anomaly of metric vim 10800 s after the beginning"),
    ):
        assert f"      {file}:{line}: {what}" in said
    assert said.count(f"{file}:") == 9
    assert said.endswith("0 passed, 2 failed\n")


@pytest.mark.parametrize(
    ("rules", "tests", "what"),
    [
        ("signals: [{match: {a: '('}}]", TESTS, "rules.yaml:1: not an RE2 expression"),
        ("signals: []\nsignal: []", TESTS, "rules.yaml:2: Object contains unknown field `signal`"),
        ("{}", None, "tests.yaml: [Errno 2]"),
        ("{}", "tests: []", "tests.yaml:1: no tests"),
        ("{}", "tests:\n- name: a\n  expect: {must_fyre: []}", "tests.yaml:3: Object contains unknown field"),
        ("{}", "config: {detekt: {}}\n" + TESTS, "tests.yaml:1: Object contains unknown field `detekt`"),
        ("{}", TESTS.replace("  - name: loud\n", "  - name: loud\n    topology: {servises: {}}\n"), "servises"),
    ],
)
def test_broken_packs_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: str, tests: str | None, what: str
) -> None:
    """A broken pack, no tests, and tests that cannot be read are failures with their place, not crashes."""
    pack = tmp_path / "mine"
    pack.mkdir()
    (pack / "rules.yaml").write_text(rules)
    if tests is not None:
        (pack / "tests.yaml").write_text(tests)
    assert main(["test-rules", str(tmp_path)]) == 1
    assert what in capsys.readouterr().out


def test_a_folder_without_packs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to test is a wrong argument, not a success."""
    assert main(["test-rules", str(tmp_path)]) == 2
    assert "no rule pack" in capsys.readouterr().err


def test_the_example_of_the_documentation_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pack and the tests that the how-to page shows are right as they stand there."""
    page = (RULES.parent / "docs" / "how-to" / "rule-packs.md").read_text()
    blocks = [part.partition("```")[0] for part in page.split("```yaml\n")[1:]]
    (rules,) = [b for b in blocks if b.startswith("description:")]
    (tests,) = [b for b in blocks if "\ntests:" in b]
    folder = tmp_path / "our-shop"
    folder.mkdir()
    (folder / "rules.yaml").write_text(rules)
    (folder / "tests.yaml").write_text(tests)
    assert main(["test-rules", str(tmp_path)]) == 0
    shown = page.partition("    $ aiopsd test-rules")[2].partition("\n")[2].partition("\n\n")[0]
    assert capsys.readouterr().out.splitlines() == [line.strip() for line in shown.splitlines()]
