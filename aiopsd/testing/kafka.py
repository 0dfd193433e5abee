"""A real Apache Kafka for tests: one KRaft node from the jars that tests/kafka/pom.xml names, on loopback.

Its listeners are PLAINTEXT, SASL_PLAINTEXT (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512), SSL and SASL_SSL with a certificate
of its own authority. Topics are auto-created on metadata requests, as Kafka does by default, so that a client that
creates topics by accident is caught. `python -m aiopsd.testing.kafka` only fetches the jars.
"""

import asyncio
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiokafka
import trustme
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError, for_code

from aiopsd.model import Entry, LogRecord, SourcePos
from aiopsd.streams.kafka import KafkaConfig, KafkaStream
from aiopsd.testing.services import Service, free_ports, require, unavailable

REPOSITORY = Path(__file__).resolve().parents[2]
USER, PASSWORD = "aiopsd", "correct horse"

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
{sasl}
ssl.keystore.type=PEM
ssl.keystore.location={folder}/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
listener.name.ssl.ssl.client.auth=required
log.dirs={folder}/data
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
group.min.session.timeout.ms=1000
log.cleaner.backoff.ms=500
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
log.segment.delete.delay.ms=500
"""

_JAAS = """\
listener.name.{listener}.plain.sasl.jaas.config={security}.plain.PlainLoginModule required user_{user}="{password}";
listener.name.{listener}.scram-sha-256.sasl.jaas.config={security}.scram.ScramLoginModule required;
listener.name.{listener}.scram-sha-512.sasl.jaas.config={security}.scram.ScramLoginModule required;"""

_LOG4J = """\
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %c %m%n
"""


def jars() -> Path:
    """Folder with the jars of tests/kafka/pom.xml; fetched by Maven once per content of that file.

    Raises:
        RuntimeError: Maven failed; with its last lines.
    """
    pom = REPOSITORY / "tests/kafka/pom.xml"
    key = hashlib.sha256(pom.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("AIOPSD_KAFKA_CACHE", REPOSITORY / ".cache/kafka"))
    target = cache / key
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    print(f"kafka: fetching the jars of Apache Kafka into {target} (44 MB, once)", file=sys.stderr, flush=True)
    # another process may do the same at this moment: each fetches into its own folder, the first rename wins
    fetched = Path(tempfile.mkdtemp(prefix="fetch-", dir=cache))
    done = subprocess.run(
        [
            *(require("mvn"), "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={fetched}"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        shutil.rmtree(fetched)
        raise RuntimeError(f"mvn could not fetch Apache Kafka:\n{(done.stdout + done.stderr)[-2000:]}")
    try:
        fetched.rename(target)
    except OSError:
        shutil.rmtree(fetched)  # somebody else was first
    return target


def java() -> str:
    """Path of Java 17 or newer; otherwise the test is `unavailable`."""
    program = require("java")
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stderr
    version = int(said.split('"')[1].split(".")[0])
    if version < 17:
        unavailable(f"Apache Kafka 4 needs Java 17, this is {version}")
    return program


class Broker(Service):
    """One Kafka node on its own data folder. `kill` and `start` again keep data and ports."""

    def __init__(self, folder: Path) -> None:
        libs = jars()
        self.classpath = f"{libs}/*"
        self.java = java()
        names = ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL")
        ports = free_ports(len(names) + 1)
        self.ports = dict(zip(names, ports, strict=False))
        super().__init__(
            "kafka",
            [
                *(self.java, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
                *(f"-Dlog4j2.configurationFile={folder}/log4j2.properties", "-cp", self.classpath),
                *("kafka.Kafka", f"{folder}/server.properties"),
            ],
            folder,
            port=self.ports["PLAINTEXT"],
        )
        self.ca_file = folder / "ca.pem"
        self._format(controller=ports[-1])

    def _format(self, controller: int) -> None:
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_file))
        server = authority.issue_cert("127.0.0.1", "localhost")
        (folder / "keystore.pem").write_bytes(
            _pkcs8(server.private_key_pem.bytes()) + b"".join(blob.bytes() for blob in server.cert_chain_pems)
        )
        client = authority.issue_cert("client@example.org")
        client.private_key_pem.write_to_path(str(folder / "client.key"))
        client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        sasl = "\n".join(
            _JAAS.format(listener=listener, user=USER, password=PASSWORD, security="org.apache.kafka.common.security")
            for listener in ("sasl_plaintext", "sasl_ssl")
        )
        (folder / "log4j2.properties").write_text(_LOG4J)
        (folder / "server.properties").write_text(
            _PROPERTIES.format(controller=controller, listeners=listeners, folder=folder, sasl=sasl)
        )
        storage = [self.java, "-XX:TieredStopAtLevel=1", "-cp", self.classpath, "kafka.tools.StorageTool"]
        scram = [f"{kind}=[name={USER},password={PASSWORD}]" for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512")]
        done = subprocess.run(
            [
                *(*storage, "format", "--standalone", "-t", "aiopsdTestsClusterIdA"),
                *("-c", f"{folder}/server.properties"),
                *(part for one in scram for part in ("--add-scram", one)),
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"Kafka's storage could not be formatted:\n{done.stdout}{done.stderr}")

    def address(self, protocol: str = "PLAINTEXT") -> str:
        """`host:port` of a listener."""
        return f"127.0.0.1:{self.ports[protocol]}"

    def config(self, topic: str, **options: Any) -> KafkaConfig:
        """Configuration of a stream of this broker's topic, in a group of its own."""
        given = {"bootstrap_servers": (self.address(),), "topic": topic, "group_id": f"group-{topic}"}
        return KafkaConfig(**{**given, **options})

    async def fill(self, topic: str, values: Sequence[bytes], partition: int | None = 0) -> list[SourcePos]:
        """Write records of format json; their places."""
        out = KafkaStream(self.config(topic), "fill", "json")
        await out.start()
        try:
            return await out.append([Entry(value=v, format="json", partition=partition) for v in values])
        finally:
            await out.stop()

    async def records(self, topic: str, source: str = "", format: str = "json") -> dict[int, list[LogRecord]]:
        """All records that the topic holds now, by partition, as a source of this name would read them."""
        consumer = aiokafka.AIOKafkaConsumer(topic, bootstrap_servers=self.address(), auto_offset_reset="earliest")
        await consumer.start()
        try:
            places = sorted(consumer.assignment())
            ends = await consumer.end_offsets(places)
            found: dict[int, list[LogRecord]] = {tp.partition: [] for tp in places}
            for tp in places:
                while (await consumer.position(tp)) < ends[tp]:
                    for message in (await consumer.getmany(tp, timeout_ms=200)).get(tp, []):
                        found[tp.partition].append(
                            LogRecord(
                                source=source or topic,
                                partition=tp.partition,
                                offset=message.offset,
                                value=message.value or b"",
                                format=format,
                                stamp=message.timestamp / 1000,
                                key=message.key,
                                headers=tuple(message.headers),
                            )
                        )
            return found
        finally:
            await consumer.stop()

    def ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))

    async def ready(self, timeout: float = 60.0) -> None:
        """Return when a client's metadata request answers."""
        async with asyncio.timeout(timeout):
            while True:
                await super().ready(timeout)
                try:
                    async with self.admin() as admin:
                        await admin.describe_cluster()
                    return
                except (KafkaError, OSError):
                    await asyncio.sleep(0.1)

    def admin(self) -> "_Admin":
        """`async with broker.admin() as admin:` an AIOKafkaAdminClient."""
        return _Admin(self.address())

    async def create_topic(self, name: str, partitions: int = 1, configs: Mapping[str, str] | None = None) -> str:
        """Create the topic and wait until it has leaders; its name."""
        async with self.admin() as admin:
            answer = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=dict(configs or {}))])
            for _, code, message in answer.topic_errors:
                if code:
                    raise for_code(code)(message)
            while True:
                (topic,) = await admin.describe_topics([name])
                if len(topic["partitions"]) == partitions and all(p["leader"] >= 0 for p in topic["partitions"]):
                    return name
                await asyncio.sleep(0.02)

    async def topics(self) -> list[str]:
        async with self.admin() as admin:
            return sorted(await admin.list_topics())

    async def delete_topic(self, name: str) -> None:
        """Delete the topic and wait until no broker knows it."""
        async with self.admin() as admin:
            await admin.delete_topics([name])
            while name in await admin.list_topics():  # noqa: ASYNC110 - a broker tells by being asked
                await asyncio.sleep(0.05)

    async def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Drop everything below offset `before`, as retention does."""
        async with self.admin() as admin:
            await admin.delete_records({aiokafka.TopicPartition(topic, partition): RecordsToDelete(before)})


class _Admin:
    def __init__(self, address: str) -> None:
        self._client = AIOKafkaAdminClient(bootstrap_servers=address)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        try:
            await self._client.start()
        except BaseException:
            await self._client.close()
            raise
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


def _pkcs8(pem: bytes) -> bytes:
    """The key as PKCS#8, the one form that Kafka's PEM key store reads."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(pem, password=None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def main() -> int:
    """Fetch the jars ahead of the tests. Without Maven it says so; the tests then skip, or fail under CI=true."""
    if shutil.which("mvn") is None:
        print("kafka: Maven is not here, so the tests against Apache Kafka cannot run: make services", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    jars()
    return 0


if __name__ == "__main__":
    sys.exit(main())
