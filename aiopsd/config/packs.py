"""Rule packs as a part of the configuration: found, read word for word, and added behind what the user says himself."""

from functools import lru_cache
from pathlib import Path

from msgspec.structs import replace

from aiopsd.config.sections import Config, PackText, RulePack
from aiopsd.errors import ConfigError
from aiopsd.marks import Marked


class BrokenPack(ConfigError):
    """A rule pack is wrong: the message names its own file and line."""


def pack_folders(folder: Path, path: str = "$.rules") -> list[Path]:
    """The folder itself when it is a pack (it holds rules.yaml), else the packs in it, by name.

    Raises:
        ConfigError: there is none; names the key `path`.
    """
    if (folder / "rules.yaml").is_file():
        return [folder]
    found = sorted(file.parent for file in folder.glob("*/rules.yaml"))
    if not found:
        raise ConfigError(f"no rule pack: neither {folder}/rules.yaml nor {folder}/*/rules.yaml is a file", path)
    return found


def read_pack(folder: Path) -> PackText:
    """The text of a pack; its name is the folder's.

    Raises:
        ConfigError: unreadable.
    """
    file = folder / "rules.yaml"
    try:
        return PackText(name=folder.resolve().name, file=str(file), text=file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read {file}: {e}", "$.rules") from None


@lru_cache(maxsize=64)
def rule_pack(pack: PackText) -> RulePack:
    """The rules of a pack.

    Raises:
        ConfigError: names the pack, its file and the line.
    """
    try:
        found: RulePack = Marked(pack.text, pack.file).convert(RulePack)
    except ConfigError as e:
        raise BrokenPack(f"rule pack `{pack.name}`: {e}", e.path) from None
    return found


def with_packs(config: Config) -> Config:
    """The configuration with what its packs know, after what the user says himself."""
    packs = [(pack.name, rule_pack(pack)) for pack in config.packs]
    names = [name for name, _ in packs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two rule packs are named `{name}`", "$.rules")
    if not packs:
        return config
    signals = [rule for _, pack in packs for rule in pack.signals]
    services = [rule for _, pack in packs for rule in pack.services]
    edges = [rule for _, pack in packs for rule in pack.edges]
    inhibit = [
        replace(rule, name=f"{name}: {rule.name or i}") for name, pack in packs for i, rule in enumerate(pack.suppress)
    ]
    return replace(
        config,
        detect=replace(config.detect, signals=(*config.detect.signals, *signals)),
        services=replace(config.services, rules=(*config.services.rules, *services)),
        topology=replace(config.topology, metrics=(*config.topology.metrics, *edges)),
        inhibit_rules=(*config.inhibit_rules, *inhibit),
    )
