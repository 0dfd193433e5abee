"""What a topic's source may say of itself."""

from typing import Literal

from aiopsd.config import Duration
from aiopsd.kafka import ClusterConfig


class KafkaConfig(ClusterConfig, frozen=True, kw_only=True):
    """Where a topic is and how to read it. `Stream` options `name`, `format`, `on_offset_lost` are the source's own."""

    group_id: str = ""  # "" = aiopsd-<source>: sources in one group would rebalance each other
    group_instance_id: str = ""  # set: static membership, a restart within session_timeout moves no partition
    isolation_level: Literal["read_uncommitted", "read_committed"] = "read_committed"  # aborted records are not input
    start_at: Literal["earliest", "latest"] = "earliest"  # where a partition begins that our store does not know
    session_timeout: Duration = Duration(10.0)  # a dead member's partitions move after this
    rebalance_timeout: Duration = Duration(60.0)  # how long the group waits for a member to finish its step
    request_timeout: Duration = Duration(30.0)
    fetch_max_bytes: int = 50 * 1024 * 1024
    max_partition_fetch_bytes: int = 1024 * 1024
    max_poll_records: int = 20_000  # upper bound of one poll, whatever its caller asks
    compression_type: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"  # of what we write
    max_request_bytes: int = 1024 * 1024  # largest record that we write; the broker's default limit
    create_topic: bool = False  # create a missing topic instead of refusing to start
    create_partitions: int = 4
    dead_letter_topic: str = ""  # "" = <topic>.dead; created when the first dead letter needs it
    dead_letter_rate: int = 60  # a minute; beyond it, and beyond the share below, the source stops
    dead_letter_share: float = 0.5  # of the records read in the last minute: this many refused is no bad record

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dead_letter_topic == self.topic:
            raise ValueError("`dead_letter_topic` is the topic itself")

    @property
    def dead_letters(self) -> str:
        return self.dead_letter_topic or f"{self.topic}.dead"
