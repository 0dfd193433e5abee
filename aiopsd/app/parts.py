"""What the configuration names, built: destinations, streams, topologies, stages."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from aiopsd import plugins
from aiopsd.config import Config, plugin_config, receivers, trainers
from aiopsd.decode import load_topology_yaml
from aiopsd.errors import ConfigError
from aiopsd.model import Snapshot, TopologyUpdate
from aiopsd.pipeline import correlate as correlate_stage
from aiopsd.pipeline import detect as detect_stage
from aiopsd.pipeline.detect import DetectStage
from aiopsd.protocols import Clock, Notifier, Session, Stream, Trainer
from aiopsd.topology import FILE_PREFIX

PUSH = "push"  # name of the local log that HTTP-pushed metrics go through
ASKS = 1000  # questions for evidence that may wait; one more and the oldest is dropped and counted
STOP_SECONDS = 15.0  # a step in progress gets so long to end when the daemon stops


def destinations(config: Config, session: Session) -> dict[str, Notifier | Trainer]:
    """Every configured notifier and trainer by its destination key.

    Raises:
        ConfigError: unknown kind or wrong options, with the key's path.
    """
    found: dict[str, Notifier | Trainer] = {}
    for receiver, kind, index, raw, path in receivers(config):
        cls = plugins.load("notifiers", kind, path)
        found[f"{receiver}/{kind}[{index}]"] = cls(plugin_config(cls.Config, raw, path), session)
    for kind, index, raw, path in trainers(config):
        cls = plugins.load("trainers", kind, path)
        found[f"trainer/{kind}[{index}]"] = cls(plugin_config(cls.Config, raw, path), session)
    return found


def open_stream(config: Config, index: int, clock: Clock, *, member: str | None = None) -> Stream:
    """The stream of `sources[index]`, not yet started.

    `member`: what makes the group_instance_id of one of several workers its own; "": no static membership.
    """
    source = config.sources[index]
    kind, raw = source.stream()
    if member is not None and raw.get("group_instance_id"):
        raw = raw | {"group_instance_id": member and f"{raw['group_instance_id']}-{member}"}
    path = f"$.sources[{index}].{kind}"
    cls = plugins.load("streams", kind, path)
    options = plugin_config(cls.Config, raw, path)
    stream: Stream = cls(options, source.name, source.decoder(), on_offset_lost=source.on_offset_lost, clock=clock)
    return stream


def topology_files(config: Config) -> list[TopologyUpdate]:
    """The topology of each configured YAML file.

    Raises:
        ConfigError: unreadable, or wrong; names the file and the key.
    """
    updates = []
    for i, name in enumerate(config.topology.files):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as e:
            raise ConfigError(f"cannot read {name}: {e.strerror}", f"$.topology.files[{i}]") from None
        updates.append(replace(load_topology_yaml(text, name), source=FILE_PREFIX + name))
    return updates


def check(config: Config) -> None:
    """Build everything that can be built without touching the world.

    Raises:
        ConfigError: the first thing that cannot.
    """
    destinations(config, NoSession())
    for index in range(len(config.sources)):
        open_stream(config, index, time.time)
    topology_files(config)
    correlate_stage.build(config)
    detect_stage.build(config, PUSH, 0)


class NoSession:
    """A session for checking a configuration: nothing is ever sent."""

    async def request(
        self, method: str, url: str, *, data: bytes, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        raise RuntimeError(f"{method} {url}: this session only checks configurations")


def detect_builder(config: Config, source: str) -> Callable[[int, Snapshot | None], DetectStage]:
    """How a detect host builds the stage of a partition."""
    return lambda partition, resume: detect_stage.build(config, source, partition, resume)


class StopDaemon(Exception):
    """Ends the task group in order."""
