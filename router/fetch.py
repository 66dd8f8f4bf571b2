"""Fetcher: HTTP to addresses that callers name, and never into networks that are not public."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

import httpx

from deployments.errors import InvalidRequest

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
#: From a host name and a port to the textual addresses it has now.
Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]

#: The one block that global IPv6 unicast addresses come from (RFC 4291): NAT64, site-local,
#: IPv4-compatible and the other special addresses lie outside of it.
_IPV6_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
#: Teredo and 6to4 carry an IPv4 address of anyone's choice inside an IPv6 one.
_IPV6_TUNNELS: Final = (ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("2002::/16"))
#: How many addresses of one name are tried.
_MAX_ADDRESSES: Final = 4
#: Encoded answers are refused, so that no decoder can be made to inflate one beyond the limit.
_HEADERS: Final = {"user-agent": "atelier", "accept-encoding": "identity"}


#: Threads of their own for names: a slow name server must not hold up the gateway's other work.
_NAMES: Final = ThreadPoolExecutor(8, thread_name_prefix="names")


async def resolve_name(host: str, port: int) -> Sequence[str]:
    """The addresses that the system's resolver knows, in its order of preference."""
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_NAMES, ask)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class Refused(Exception):
    """Why an address is not asked, for the caller to read."""


class Guard:
    """Says which of a host's addresses may be connected to.

    Private, loopback, link-local, multicast, reserved, shared (100.64/10), unspecified and tunnel
    addresses may not, unless ``allow`` (CIDR networks) holds them.
    """

    def __init__(self, allow: Sequence[str] = (), resolver: Resolver = resolve_name) -> None:
        self._allow: tuple[Network, ...] = tuple(
            ipaddress.ip_network(network, strict=False) for network in allow
        )
        self._resolver = resolver

    async def addresses(self, url: httpx.URL) -> Sequence[Address]:
        """The addresses of the URL's host that may be asked. Raises ``Refused`` if none may."""
        if url.scheme not in ("http", "https"):
            raise Refused(f"the scheme {url.scheme!r} is not accepted; accepted: data, http, https")
        if not url.host:
            raise Refused("it names no host")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            texts = await self._resolver(url.raw_host.decode("ascii"), port)
        except (OSError, UnicodeError):
            raise Refused(f"the host {url.host!r} cannot be resolved") from None
        found = list(dict.fromkeys(parse_address(text) for text in texts))
        admitted = [address for address in found if self.is_own(address) or is_public(address)]
        if not admitted:
            raise Refused(f"the host {url.host!r} is not at a public address")
        return admitted

    def is_own(self, address: Address) -> bool:
        """Whether the operator's list of networks holds the address."""
        return any(address in network for network in self._allow)


class Fetcher:
    """Reads pictures from, and posts to, URLs of a caller's choice.

    A host name is resolved once per hop, its addresses are checked, and the connection goes to an
    address that was checked, with the name in ``Host`` and in TLS: an answer of the name server
    that changes in between changes nothing. Proxies of the environment are not used.

    Args:
        allow: networks (CIDR) that are admitted although they are not public.
        max_bytes: the largest body read.
        timeout: seconds for everything: names, connections, redirects and the body.
        max_redirects: how many redirects of a GET are followed; a POST follows none.
        resolver: what turns names into addresses.
        tls: the TLS context; None is httpx's, with its bundle of authorities.
    """

    def __init__(
        self,
        *,
        allow: Sequence[str] = (),
        max_bytes: int = 48 * 1024 * 1024,
        timeout: float = 10.0,
        max_redirects: int = 3,
        resolver: Resolver = resolve_name,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = Guard(allow, resolver)
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._max_redirects = max_redirects
        self._tls = tls or httpx.create_ssl_context(trust_env=False)

    async def fetch(self, url: str, *, param: str = "input_image_url") -> bytes:
        """The bytes behind an http, https or data URL. Raises ``InvalidRequest``."""
        if url[:5].lower() == "data:":
            with _told(param):
                return _decode_data_url(url, self._max_bytes)
        async with self._client(param, self._guard) as client:
            request = client.build_request("GET", url)
            for _ in range(self._max_redirects + 1):
                response = await client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        return await self._read(response)
                    request = response.next_request
                finally:
                    await response.aclose()
            raise Refused(f"it redirects more than {self._max_redirects} times")

    async def check(self, url: str, *, param: str = "webhook_url") -> None:
        """Whether the URL could be asked now. Raises ``InvalidRequest`` naming ``param``."""
        with _told(param):
            async with asyncio.timeout(self._timeout):
                await self._guard.addresses(httpx.URL(url))

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        headers: Mapping[str, str],
        own_headers: Mapping[str, str] | None = None,
        is_trusted: bool = False,
    ) -> int:
        """Post and return the answer's status; its body is not read. Raises ``InvalidRequest``.

        Args:
            own_headers: sent only to trusted URLs and to addresses in the admitted networks.
            is_trusted: the operator chose the URL: its address is not checked.
        """
        guard = None if is_trusted else self._guard
        async with (
            self._client("url", guard, own_headers) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            return response.status_code

    @asynccontextmanager
    async def _client(
        self, param: str, guard: Guard | None, own_headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.AsyncClient]:
        """A client of one exchange: no cookies, connections or TLS sessions outlive it."""
        inner = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False)
        with _told(param):
            async with (
                asyncio.timeout(self._timeout),
                httpx.AsyncClient(
                    transport=PinnedTransport(inner, guard, own_headers or {}),
                    headers=_HEADERS,
                    timeout=httpx.Timeout(self._timeout, connect=self._timeout / 2),
                    trust_env=False,
                ) as client,
            ):
                yield client

    async def _read(self, response: httpx.Response) -> bytes:
        if not response.is_success:
            raise Refused(f"the server answered {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Refused("the server sent an encoded body")
        declared = response.headers.get("content-length", "")
        data = bytearray()
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise _too_large(self._max_bytes)
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > self._max_bytes:
                raise _too_large(self._max_bytes)
        return bytes(data)


class PinnedTransport(httpx.AsyncBaseTransport):
    """Connects to an address that the guard admitted, in the name of the URL's host."""

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        guard: Guard | None,
        own_headers: Mapping[str, str],
    ) -> None:
        self._inner = inner
        self._guard = guard
        self._own_headers = own_headers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Try the admitted addresses in turn; the first that accepts a connection serves."""
        if self._guard is None:
            request.headers.update(self._own_headers)
            return await self._inner.handle_async_request(request)
        addresses = (await self._guard.addresses(request.url))[:_MAX_ADDRESSES]
        for address in addresses:
            pinned = _pin(request, address)
            if self._guard.is_own(address):
                pinned.headers.update(self._own_headers)
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        raise AssertionError("a guard admits at least one address")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def parse_address(text: str) -> Address:
    """An address; IPv4 mapped into IPv6 (``::ffff:10.0.0.1``) is the IPv4 one."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_public(address: Address) -> bool:
    """Whether an address is a globally routable unicast one."""
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _IPV6_UNICAST or any(address in tunnel for tunnel in _IPV6_TUNNELS)
    ):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _pin(request: httpx.Request, address: Address) -> httpx.Request:
    """The request to an address: ``Host`` and the name that TLS checks stay the URL's."""
    host = request.url.raw_host.decode("ascii")
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


@contextmanager
def _told(param: str) -> Iterator[None]:
    """Turns what can go wrong into ``InvalidRequest``, without a word about our own side."""
    try:
        yield
    except Refused as error:
        reason = str(error)
    except TimeoutError:
        reason = "it takes too long"
    except httpx.TimeoutException:
        reason = "it takes too long"
    except httpx.ConnectError:
        reason = "no connection could be made"
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
        reason = "it is not a valid URL"  # the last: a host that is no internationalised name
    except httpx.HTTPError:
        reason = "the exchange broke off"
    else:
        return
    raise InvalidRequest(f"{param} cannot be reached: {reason}", param=param)


def _decode_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes of ``data:[type][;base64],...`` (RFC 2397)."""
    head, comma, text = url[5:].partition(",")
    if not comma:
        raise Refused("it is not a valid data URL")
    if len(text) > 4 * max_bytes:
        raise _too_large(max_bytes)
    data = unquote_to_bytes(text)
    if head.lower().endswith(";base64"):
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error:
            raise Refused("it holds no valid base64") from None
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


def _too_large(max_bytes: int) -> Refused:
    return Refused(f"it holds more than the accepted {max_bytes} bytes")
