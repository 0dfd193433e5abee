"""A topic of Apache Kafka as a `Stream`: raw records out, our records and dead letters in.

Enters: a `KafkaConfig` and an `Owner` that holds the positions. Leaves: `LogRecord`s, in offset order per partition.
It refuses to know what a record means. Offsets belong to the owner's store: what is committed to Kafka is only there
for lag tools and is never read back.

`stream` reads, as a member of a group; `writer` writes; `dead` says what is refused one by one, and when that has to
end; `broker` asks the cluster what is in the way.
"""

from aiopsd.kafka import TlsConfig
from aiopsd.streams.kafka.config import KafkaConfig
from aiopsd.streams.kafka.dead import DeadLetterBudget
from aiopsd.streams.kafka.stream import KafkaStream

__all__ = ("DeadLetterBudget", "KafkaConfig", "KafkaStream", "TlsConfig")
