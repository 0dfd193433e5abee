"""Dead letters: records that were refused, on a topic of their own, as long as they are the exception."""

from collections import deque
from collections.abc import Sequence

from aiopsd.errors import StreamError
from aiopsd.model import LogRecord
from aiopsd.protocols import Clock
from aiopsd.streams.kafka.broker import UNKNOWN_TOPIC, Away, Broker
from aiopsd.streams.kafka.writer import Writer, format_header

_WINDOW = 60  # s; the rate limit of dead letters is per minute

Refused = tuple[LogRecord, str, str]  # with reason and detail


class DeadLetterBudget:
    """Decides when refusing records one by one has to end: too many a minute, and too large a share of what is read.

    Counts live in one-second buckets of the last minute. `now` is any clock in seconds that does not go back.
    """

    def __init__(self, rate: int, share: float) -> None:
        self.rate, self.share = rate, share
        self.read = self.refused = 0  # within the window
        self._buckets: deque[list[int]] = deque()  # [second, read, refused]

    def count(self, now: float, *, read: int = 0, refused: int = 0) -> None:
        second = int(now)
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append([second, 0, 0])
            while self._buckets[0][0] <= second - _WINDOW:
                _, old_read, old_refused = self._buckets.popleft()
                self.read -= old_read
                self.refused -= old_refused
        self._buckets[-1][1] += read
        self._buckets[-1][2] += refused
        self.read += read
        self.refused += refused

    def exceeded(self, more: int) -> bool:
        """True when `more` dead letters on top of the window's would be beyond both the rate and the share."""
        refused = self.refused + more
        return refused > self.rate and refused > self.share * self.read


class DeadLetters:
    """Those of one source. Key, value and headers are the original's; what we know of it is in headers of ours."""

    def __init__(self, broker: Broker, writer: Writer, format: str, clock: Clock) -> None:
        self._config = config = broker.config
        self._name = broker.name
        self._broker, self._writer, self._format, self._clock = broker, writer, format, clock
        self._budget = DeadLetterBudget(config.dead_letter_rate, config.dead_letter_share)
        self._topic_exists = False

    def read(self, records: int) -> None:
        """So many were read: the share of those that are refused is of them."""
        self._budget.count(self._clock(), read=records)

    def too_many(self, refused: Sequence[Refused]) -> StreamError | None:
        """Why the source has to stop instead of refusing these as well; None: it need not."""
        self._budget.count(self._clock())
        if not self._budget.exceeded(len(refused)):
            return None
        record, reason, detail = refused[-1]
        return StreamError(
            f"{self._name} stopped: {self._budget.refused + len(refused)} of {self._budget.read} records of the"
            f" last minute were refused, the last one {record.pos} as {reason}: {detail};"
            f" is {self._config.topic} really {self._format}? (limit: {self._config.dead_letter_rate} a minute)",
            retry=False,
        )

    async def write(self, refused: Sequence[Refused]) -> None:
        """Safe when this returns.

        Raises:
            StreamError: the broker is away, or refuses.
        """
        now = self._clock()
        topic = self._config.dead_letters
        if not self._topic_exists:
            try:
                code, _ = (await self._broker.describe([topic]))[topic]
            except Away as e:
                raise StreamError(f"{self._name}: {e}") from None
            if code == UNKNOWN_TOPIC:
                await self._broker.create(topic, 1)
            self._topic_exists = True
        await self._writer.send(
            topic,
            [
                (
                    record.value,
                    record.key,
                    None,
                    (
                        *record.headers,
                        ("aiopsd-reason", reason.encode()),
                        ("aiopsd-detail", detail.encode()),
                        ("aiopsd-source", self._name.encode()),
                        ("aiopsd-topic", self._config.topic.encode()),
                        ("aiopsd-partition", b"%d" % record.partition),
                        ("aiopsd-offset", b"%d" % record.offset),
                        format_header(record.format),
                    ),
                )
                for record, reason, detail in refused
            ],
        )
        self._budget.count(now, refused=len(refused))
