"""HTTP for notifiers and trainers: one aiohttp session behind protocols.Session.

Enters: a request as bytes. Leaves: status, headers, the beginning of the body; or a DeliveryError that names the host
and never the path, the query or a header, where secrets live. Redirects are not followed: the body of a notification
goes to the host that the configuration names and to no other.
"""

from collections.abc import Mapping
from ssl import SSLContext
from types import TracebackType
from typing import Self

import aiohttp

from aiopsd.errors import DeliveryError, DeliveryReason
from aiopsd.outgoing import host_of

BODY_LIMIT = (
    256 * 1024
)  # bytes read of an answer: enough for a page of Slack's history, no more than a receiver may cost
CONNECTIONS = 100  # at once, over all destinations


class HttpSession:
    """protocols.Session over aiohttp; use as an async context manager, it connects when first used."""

    def __init__(self, *, ssl: SSLContext | None = None) -> None:
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self, method: str, url: str, *, data: bytes, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers with lower-case names, the first MiB of the body) within `timeout` seconds.

        Raises:
            DeliveryError: NETWORK or TIMEOUT, retry yes; OTHER, retry no, for a URL that is none.
        """
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._ssl if self._ssl is not None else True)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=True)
        host = host_of(url)
        try:
            async with self._session.request(
                method,
                url,
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as answer:
                body = b""
                while len(body) < BODY_LIMIT and (chunk := await answer.content.read(BODY_LIMIT - len(body))):
                    body += chunk
                return answer.status, {k.lower(): v for k, v in answer.headers.items()}, body
        except TimeoutError:
            raise DeliveryError(
                DeliveryReason.TIMEOUT, f"{host} did not answer within {timeout:g} s", retry=True
            ) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise DeliveryError(DeliveryReason.OTHER, "the configured URL is not one", retry=False) from None
        except (aiohttp.ClientError, OSError) as e:
            raise DeliveryError(DeliveryReason.NETWORK, f"{host}: {_cause(e)}", retry=True) from None
        except ValueError as e:  # a header or URL that cannot be sent; its text may hold the secret
            raise DeliveryError(
                DeliveryReason.OTHER, f"{host}: request cannot be sent ({type(e).__name__})", retry=False
            ) from None


def _cause(error: Exception) -> str:
    """The kind of failure and the system's words; never the request."""
    inner: BaseException = getattr(error, "os_error", None) or error
    words = inner.strerror if isinstance(inner, OSError) and inner.strerror else ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
