"""From files to a checked configuration; what is wrong is told with its key, its file and its line."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from aiopsd.config.packs import BrokenPack, pack_folders, read_pack, with_packs
from aiopsd.config.sections import Config, RouteConfig
from aiopsd.config.values import plugin_config
from aiopsd.errors import ConfigError
from aiopsd.marks import Marked


def receivers(config: Config) -> Iterator[tuple[str, str, int, dict[str, Any], str]]:
    """(receiver, kind, index, raw options, path) of every integration, in order."""
    for i, receiver in enumerate(config.receivers):
        for key, items in receiver.items():
            if key == "name":
                continue
            path = f"$.receivers[{i}].{key}"
            if not key.endswith("_configs"):
                raise ConfigError(f"unknown field `{key}` (integrations end in _configs)", path)
            if not isinstance(items, list):
                raise ConfigError("expected a list", path)
            for j, raw in enumerate(items):
                if not isinstance(raw, dict):
                    raise ConfigError("expected a mapping", f"{path}[{j}]")
                yield receiver["name"], key.removesuffix("_configs"), j, raw, f"{path}[{j}]"


def trainers(config: Config) -> Iterator[tuple[str, int, dict[str, Any], str]]:
    """(kind, index, raw options, path) of every trainer."""
    for i, item in enumerate(config.retraining.trainers):
        path = f"$.retraining.trainers[{i}]"
        if len(item) != 1:
            raise ConfigError("a trainer is one mapping {<kind>: {options}}", path)
        ((kind, raw),) = item.items()
        yield kind, i, raw or {}, f"{path}.{kind}"


def load(text: str) -> Config:
    """Read and check a configuration.

    Raises:
        ConfigError: not YAML, a key given twice, unknown key, wrong type or a broken rule between keys; `path` says
            where.
    """
    return _checked(Marked(text, "configuration").value)


def _checked(raw: Any) -> Config:
    config = with_packs(plugin_config(Config, raw or {}, "$"))
    _check(config)
    return config


def _check(config: Config) -> None:
    names = set()
    for i, receiver in enumerate(config.receivers):
        name = receiver.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError("a receiver needs a `name`", f"$.receivers[{i}].name")
        if name in names:
            raise ConfigError(f"receiver `{name}` is defined twice", f"$.receivers[{i}].name")
        names.add(name)
    list(receivers(config))
    list(trainers(config))

    def walk(route: RouteConfig, path: str) -> None:
        if route.receiver and route.receiver not in names:
            raise ConfigError(f"unknown receiver `{route.receiver}`", f"{path}.receiver")
        for i, sub in enumerate(route.routes):
            walk(sub, f"{path}.routes[{i}]")

    walk(config.route, "$.route")
    seen: set[str] = set()
    for i, source in enumerate(config.sources):
        if source.name in seen:
            raise ConfigError(f"source `{source.name}` is defined twice", f"$.sources[{i}].name")
        seen.add(source.name)
        source.stream()


def read(path: Path) -> tuple[Config, str]:
    """(configuration, its text) of a file, or of a folder of *.yaml fragments merged in name order.

    The text is complete: `load(text)` gives the same configuration where the folders of `rules` are not at hand.

    Raises:
        ConfigError: unreadable, or any error of `load`.
    """
    try:
        if not path.is_dir():
            text = path.read_text(encoding="utf-8")
            marked = Marked(text, str(path))
            return _complete(marked.value, text, {}, marked)
        merged: dict[str, Any] = {}
        told: dict[str, Marked | None] = {}  # top-level key -> the fragment it stands in; None: in several
        for part in sorted(path.glob("*.yaml")):
            marked = Marked(part.read_text(encoding="utf-8"), str(part))
            raw = marked.value or {}
            if not isinstance(raw, dict):
                raise marked.error("expected a mapping at the top", "$")
            for key, value in raw.items():
                told[key] = None if key in told else marked
                if key not in merged:
                    merged[key] = value
                elif isinstance(value, list) and isinstance(merged[key], list):
                    merged[key] = merged[key] + value
                elif isinstance(value, dict) and isinstance(merged[key], dict):
                    twice = sorted(set(value) & set(merged[key]))
                    if twice:
                        raise marked.error(f"`{twice[0]}` is given in another fragment too", f"$.{key}.{twice[0]}")
                    merged[key] = merged[key] | value
                else:
                    raise marked.error(f"`{key}` is given in another fragment too", f"$.{key}")
        return _complete(merged, yaml.safe_dump(merged, sort_keys=True), told, None)
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError as e:
        raise ConfigError(f"cannot read {path}: not UTF-8: {e}") from None


def _complete(raw: Any, text: str, told: dict[str, Marked | None], whole: Marked | None) -> tuple[Config, str]:
    """(configuration, text) with the packs of `rules` in it; one that holds its packs already is taken as it is.

    What is wrong is told with the line of the fragment that its top-level key stands in, or of the `whole` file.
    """
    try:
        if isinstance(raw, dict) and raw.get("rules") and not raw.get("packs"):
            plugin_config(Config, raw, "$")
            packs = []
            for i, folder in enumerate(raw["rules"]):
                packs += [read_pack(found) for found in pack_folders(Path(folder), f"$.rules[{i}]")]
            raw = raw | {"packs": msgspec.to_builtins(packs)}
            text = yaml.safe_dump(raw, sort_keys=True, allow_unicode=True)
        return _checked(raw), text
    except ConfigError as e:
        raise _located(e, told, whole) from None


def _located(e: ConfigError, told: Mapping[str, Marked | None], whole: Marked | None) -> ConfigError:
    """The error with the file and the line of its key, where a file has it."""
    if isinstance(e, BrokenPack) or re.match(r"\S+:\d+: ", str(e)):
        return e  # names a file of its own: a pack, a topology
    key = re.split(r"[.\[]", e.path.removeprefix("$."), maxsplit=1)[0]
    if key == "$" and (named := re.search(r"unknown field `([^`]+)`", str(e))):
        key = named.group(1)
    marked = whole or told.get(key)
    return e if marked is None else marked.error(str(e), e.path)


def located(path: Path, error: ConfigError) -> ConfigError:
    """An error that came up when the configuration of `path` was used, with the file and the line of its key."""
    try:
        if not path.is_dir():
            return _located(error, {}, Marked(path.read_text(encoding="utf-8"), str(path)))
        told: dict[str, Marked | None] = {}
        for part in sorted(path.glob("*.yaml")):
            marked = Marked(part.read_text(encoding="utf-8"), str(part))
            told |= {key: None if key in told else marked for key in marked.value or {}}
        return _located(error, told, None)
    except (OSError, ConfigError):
        return error


def config_hash(text: str) -> str:
    """16 hex digits of the configuration's text: under which rules a decision was made."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
