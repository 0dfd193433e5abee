"""Models of third parties: a real distribution with entry points, found by its name in the configuration."""

import importlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiopsd import plugins
from aiopsd.config import load
from aiopsd.errors import ConfigError
from aiopsd.model import Anomaly, Append
from aiopsd.pipeline.detect import build
from aiopsd.testing import detectors
from tests.unit.test_detect_stage import MINUTE, T0, records, series

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "acme-detectors"
version = "1.0"

[project.entry-points."aiopsd.detectors"]
"acme.Median" = "acme_detectors:Median"
"acme.Broken" = "acme_missing:Nothing"
"acme.Stump" = "acme_detectors:Stump"
"acme.Forgetful" = "acme_detectors:Forgetful"
"""
# as docs/how-to/write-a-detector.md shows it
EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "write-a-detector.md"
MORE = """

class Stump:
    def learn(self, ts, x):
        pass


class Forgetful(Median):
    def state(self):
        return [object()]
"""


def example() -> str:
    """The Python of the how-to."""
    return EXAMPLE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


@pytest.fixture(scope="module", autouse=True)
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package, installed by pip into a folder of its own that is on sys.path while these tests run."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (source / "acme_detectors.py").write_text(example() + MORE, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*command, str(source)], check=True)
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    yield
    sys.path.remove(str(site))
    sys.modules.pop("acme_detectors", None)
    importlib.invalidate_caches()


def test_a_registered_model_is_found() -> None:
    """What a distribution registers is listed beside nothing but its own kind."""
    assert {"acme.Median", "acme.Broken"} <= set(plugins.names("detectors"))
    assert "acme.Median" not in plugins.names("notifiers")


def test_its_verdict_is_an_event_like_any_other() -> None:
    """Named in the configuration, the model of a third party finds what the bank lets pass, and survives a restart."""
    text = """
    detect:
      online: [{match: {__name__: beat}, model: acme.Median, params: {window: 4}, alone: true}]
    """
    values = [10 * math.sin(t * math.pi / 12) for t in range(900)]
    values[810] = 9.0  # at the bottom of the wave: a usual value
    log = records([[(series("beat"), T0 + MINUTE * t, v)] for t, v in enumerate(values)])
    whole = build(load(text), "metrics", 2).step(log)
    one = build(load(text), "metrics", 2)
    parts = one.step(log[:500])
    parts += build(load(text), "metrics", 2, one.snapshot()).step(log[500:])
    events = [e.body for e in whole if isinstance(e, Append) and isinstance(e.body, Anomaly)]
    assert [(e.onset - T0) // MINUTE for e in events if e.revision == 0] == [810]
    assert [e.channel for e in events[0].evidence] == ["online"]
    assert whole == parts


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        ("{model: acme.Nothing}", "model", "acme.Median"),
        ("{model: acme.Broken}", "model", "of acme-detectors cannot be imported: ModuleNotFoundError"),
        ("{model: acme.Stump}", "model", "no `statistic`, `state`, `load`, `Config`"),
        ("{model: acme.Forgetful}", "model", "cannot be kept in a snapshot"),
        ("{model: acme.Median, params: {window: wide}}", "params.window", "int"),
        ("{model: acme.Median, params: {windows: 3}}", "params", "windows"),
        ("{model: acme.Median, params: {window: 1}}", "params", "at least 3"),
        ("{model: acme.Median, features: ['.*']}", "model", "takes no `features`"),
    ],
)
def test_a_broken_model_is_refused_with_its_key(rule: str, path: str, text: str) -> None:
    """What cannot be used is told when the configuration is checked: which key, whose package, what is missing."""
    with pytest.raises(ConfigError) as e:
        build(load(f"detect: {{online: [{rule}]}}"), "metrics", 0)
    assert e.value.path == f"$.detect.online[0].{path}"
    assert text in str(e.value)


@pytest.mark.parametrize("check", detectors.CHECKS, ids=lambda c: c.__name__)
def test_the_example_conforms(check: Callable[[detectors.Candidate], None]) -> None:
    """The model that the how-to shows passes the conformance suite, run as the how-to says."""
    check(detectors.model("acme.Median", {"window": 4}))
