"""What the documents name is there: commands with their options, make targets, links, files."""

import argparse
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from aiopsd import cli
from aiopsd.config import Config, plugin_config, receivers
from aiopsd.marks import Marked
from aiopsd.routing import routes
from simulations import __main__ as simulations

ROOT = Path(__file__).parent.parent.parent
PAGES = [p for p in sorted(ROOT.rglob("*.md")) if not {".venv", ".cache"} & set(p.relative_to(ROOT).parts)]
SOURCES = [p for folder in ("aiopsd", "simulations", "tests", "deploy") for p in (ROOT / folder).rglob("*.py")]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(
    r"(?<![\w/.-])((?:docs|aiopsd|simulations|tests|deploy|rules)/[\w./-]+\.(?:md|py|yaml|json|sh|sql|service))\b"
)
SAMPLE = {"N": "1", "SEED": "1", "FIRST-LAST": "1-2", "MINUTES": "1"}  # what stands for a number


class Parsed(Exception):
    """The options were good; nothing is run."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(text: str) -> Iterator[list[str]]:
    """Words of each command that stands in a page: lines of its blocks, fenced or indented, and spans of code."""
    text = text.replace("\\\n", " ")
    lines = "\n".join([*FENCE.findall(text), *re.findall(r"^ {4}.+$", text, re.MULTILINE)]).split("\n")
    spans = [span.replace("\n", " ") for span in SPAN.findall(FENCE.sub("", text))]
    for line in lines + spans:
        line = re.sub(r"^\s*(\$ )?(\.venv/bin/)?(python -m (?=simulations ))?", "", line)
        first, _, rest = line.partition(" ")
        if rest and (first in ("aiopsd", "make", "simulations") or rest.startswith("--")):
            yield [SAMPLE.get(word, word) for word in shlex.split(line, comments=True)]


def parses(monkeypatch: pytest.MonkeyPatch, main: Callable[[list[str]], int], words: list[str]) -> None:
    """The program takes these options, perhaps with more that it needs; it ends as soon as it has read them."""
    read = argparse.ArgumentParser.parse_args

    def only_read(self: argparse.ArgumentParser, *args: Any, **more: Any) -> None:
        read(self, *args, **more)
        raise Parsed

    def error(self: argparse.ArgumentParser, message: str) -> None:
        assert message.startswith("the following arguments are required"), f"{words}: {message}"
        raise Parsed

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", only_read)
        patched.setattr(argparse.ArgumentParser, "error", error)
        with pytest.raises(Parsed):
            main(words)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_of_a_page_is_one(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m simulations X --flag`, `aiopsd X --flag` and `make X` exist and take what is shown."""
    programs = simulations.programs()
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for words in commands(page.read_text(encoding="utf-8")):
        if words[0] == "aiopsd":
            parses(monkeypatch, cli.main, words[1:])
        elif words[0] == "make":
            assert words[1] in targets, words
        elif words[0] in programs or words[0] == "simulations":
            parses(monkeypatch, simulations.main, words[words[0] == "simulations" :])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links among the documents name files that are there, and headings that are in them."""
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=name)
def test_every_file_that_is_named_is_there(path: Path) -> None:
    """A file of the repository that a page, a docstring or a comment names is there."""
    gone = [file for file in FILE.findall(path.read_text(encoding="utf-8")) if not (ROOT / file).exists()]

    assert gone == []


def configurations() -> Iterator[tuple[str, str]]:
    """(page, block) of each YAML block of the pages whose keys are all of our configuration's."""
    keys = {field.encode_name for field in msgspec.structs.fields(Config)}
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            given = yaml.safe_load(block)
            another = re.match(r"# (?!aiopsd)\S+\.ya?ml", block)  # topology.yaml has `services`, too
            if isinstance(given, dict) and given.keys() <= keys and not another:
                yield name(page), block


@pytest.mark.parametrize(("page", "block"), list(configurations()))
def test_every_configuration_of_a_page_is_read(page: str, block: str) -> None:
    """A block is a part of a configuration that the daemon takes: its keys are there, its values of their types."""
    config = plugin_config(Config, Marked(block, page).value, "$")

    routes(config)
    list(receivers(config))


def test_the_map_shows_every_module() -> None:
    """The table of floors in the architecture names each module and package of aiopsd, and none that is not there."""
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/?)`", "\n".join(line for line in page.split("\n") if re.match(r"\| \d? ?\|", line)))
    there = {
        p.stem if p.is_file() else f"{p.name}/"
        for p in (ROOT / "aiopsd").glob("[!.]*")
        if (p / "__init__.py").exists() or p.suffix == ".py"
    }

    assert set(named) == there - {"__init__"}
