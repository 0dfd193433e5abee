"""What we ask of a cluster beside reading and writing: whether it is there, has a topic, and is to make one."""

import ssl
from typing import Any

import structlog
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from aiopsd.errors import StreamError
from aiopsd.kafka import REFUSED, client_options
from aiopsd.streams.kafka.config import KafkaConfig

log = structlog.get_logger(__name__)

UNKNOWN_TOPIC, TOPIC_NOT_ALLOWED = 3, 29  # https://kafka.apache.org/protocol#protocol_error_codes


class Away(Exception):
    """No broker answered; the text says why."""


class Broker:
    """The cluster of one source, by connections that live for one question."""

    def __init__(self, config: KafkaConfig, name: str) -> None:
        self.config, self.name = config, name

    @property
    def addresses(self) -> str:
        """As configured."""
        return ",".join(self.config.bootstrap_servers)

    @property
    def user(self) -> str:
        """Who we are there, for messages."""
        return f"user `{self.config.sasl_username}`" if self.config.sasl_username else "an anonymous client"

    def options(self) -> dict[str, Any]:
        """What every client of aiokafka is told alike.

        Raises:
            StreamError: a file of `tls` cannot be loaded.
        """
        try:
            options = client_options(self.config)
        except OSError as e:
            raise StreamError(f"{self.name}: cannot load {self.config.tls.files}: {e}", retry=False) from None
        return {**options, "request_timeout_ms": int(self.config.request_timeout * 1000)}

    async def describe(self, topics: list[str]) -> dict[str, tuple[int, list[Any]]]:
        """(error code, partitions) by topic, by a request of our own that creates nothing.

        aiokafka's clients ask in a way that lets brokers auto-create the topic, and report every obstacle as "Unable
        to bootstrap"; a single connection says what it is.

        Raises:
            Away: nobody answered; why.
            StreamError: credentials or certificate refused: trying again cannot help.
        """
        obstacle = ""
        for host, port, _ in collect_hosts(list(self.config.bootstrap_servers)):
            where = f"{host}:{port}"
            try:
                conn = await create_conn(host, port, **{**self.options(), "request_timeout_ms": 10_000})
                try:
                    answer = await conn.send(MetadataRequest(topics, allow_auto_topic_creation=False))
                finally:
                    conn.close()
                return {topic: (code, partitions) for code, topic, _, partitions in answer.topics}
            except REFUSED as e:
                raise StreamError(
                    f"{self.name}: {where} refuses {self.user} by {self.config.sasl_mechanism}: credentials? ({e})",
                    retry=False,
                ) from None
            except ssl.SSLCertVerificationError as e:
                raise StreamError(
                    f"{self.name}: the certificate of {where} is not trusted: {e.verify_message}; tls.ca_file?",
                    retry=False,
                ) from None
            except (OSError, TimeoutError, KafkaError) as e:
                hint = ""
                if isinstance(e, (KafkaError, ssl.SSLError)):
                    hint = " (credentials? security_protocol?)"
                obstacle = f"broker {where}: {e or type(e).__name__}{hint}"
        raise Away(obstacle)

    async def create(self, topic: str, partitions: int) -> None:
        """Create a topic with as many replicas as there are brokers, three at most."""
        admin = AIOKafkaAdminClient(bootstrap_servers=list(self.config.bootstrap_servers), **self.options())
        try:
            await admin.start()
            brokers = len((await admin.describe_cluster())["brokers"])
            answer = await admin.create_topics([NewTopic(topic, partitions, min(3, brokers))])
            error = kafka_errors.for_code(answer.topic_errors[0][1])
            if error not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
                raise StreamError(f"{self.name}: cannot create topic `{topic}`: {error.__name__}")
        except KafkaError as e:
            raise StreamError(f"{self.name}: cannot create topic `{topic}`: {e}") from e
        finally:
            await admin.close()
        log.info("kafka.topic_created", source=self.name, topic=topic, partitions=partitions)
