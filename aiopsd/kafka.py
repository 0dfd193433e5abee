"""How we reach a Kafka cluster, whoever of us asks: what the configuration says of it, in the words of aiokafka."""

import ssl
from typing import Any, Literal

from aiokafka import errors as kafka_errors

from aiopsd.config import Secret, Section

# trying again cannot help: somebody has to look at our credentials ...
REFUSED = (
    kafka_errors.AuthenticationFailedError,
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)
# ... or at our rights
NOT_ALLOWED = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
)


class TlsConfig(Section, frozen=True, kw_only=True):
    ca_file: str = ""  # PEM; "": the system's authorities
    cert_file: str = ""  # PEM of the client certificate, when the broker asks for one
    key_file: str = ""  # PEM of its key; "": inside cert_file
    check_hostname: bool = True

    @property
    def files(self) -> str:
        """Those that it names, for an error that says which cannot be read."""
        return ", ".join(filter(None, (self.ca_file, self.cert_file, self.key_file)))


class ClusterConfig(Section, frozen=True, kw_only=True):
    """Where a topic is, and who we are there."""

    bootstrap_servers: tuple[str, ...]
    topic: str
    client_id: str = "aiopsd"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str = ""
    sasl_password: Secret | None = None
    tls: TlsConfig = TlsConfig()

    def __post_init__(self) -> None:
        if not self.bootstrap_servers:
            raise ValueError("`bootstrap_servers` is empty")
        if not self.topic:
            raise ValueError("`topic` is empty")
        if self.security_protocol.startswith("SASL") and (not self.sasl_username or self.sasl_password is None):
            raise ValueError(f"{self.security_protocol} needs `sasl_username` and `sasl_password`")


def client_options(c: ClusterConfig) -> dict[str, Any]:
    """What every client of aiokafka is told alike.

    Raises:
        OSError: a file of `tls` cannot be loaded.
    """
    options: dict[str, Any] = {"client_id": c.client_id, "security_protocol": c.security_protocol}
    if c.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=c.tls.ca_file or None)
        if c.tls.cert_file:
            context.load_cert_chain(c.tls.cert_file, c.tls.key_file or None)
        context.check_hostname = c.tls.check_hostname
        options["ssl_context"] = context
    if c.security_protocol.startswith("SASL"):
        assert c.sasl_password is not None  # checked by the config
        options["sasl_mechanism"] = c.sasl_mechanism
        options["sasl_plain_username"] = c.sasl_username
        options["sasl_plain_password"] = c.sasl_password.reveal()
    return options
