"""Fetcher: what it reads and what it refuses, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deployments.errors import InvalidRequest
from router.fetch import Fetcher, Guard, PinnedTransport, Resolver, is_public, parse_address

LOOPBACK = ("127.0.0.0/8",)
Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Origin:
    """A server of raw answers on loopback that keeps the request heads it saw."""

    def __init__(self, answer: Answer) -> None:
        self.heads: list[str] = []
        self.port = 0
        self._answer = answer

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            await self._answer(head, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serve(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    origin = Origin(answer)
    server = await asyncio.start_server(origin.handle, "127.0.0.1", 0, ssl=tls)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()


def reply(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return answer


def redirect(location: str) -> Answer:
    return reply(b"", f"Location: {location}", status="302 Found")


def names(**addresses: str | Sequence[str]) -> Resolver:
    """A resolver over a table (``_`` stands for a dot); literal addresses resolve to themselves."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        found = addresses.get(host.replace(".", "_"))
        if found is not None:
            return [found] if isinstance(found, str) else found
        try:
            return [str(ipaddress.ip_address(host.strip("[]")))]
        except ValueError:
            raise OSError("no such name") from None

    return resolve


async def test_an_admitted_address_is_read() -> None:
    async with serve(reply(b"picture")) as origin:
        data = await Fetcher(allow=LOOPBACK).fetch(f"http://127.0.0.1:{origin.port}/a.png")
    assert data == b"picture"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://0.0.0.0/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:a00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:1::1]/",
        "http://[fe80::1]/",
        "http://[fc00::1]/",
        "http://[fec0::1]/",
        "http://[ff02::1]/",
        "http://[2001:db8::1]/",
    ],
)
async def test_an_address_that_is_not_public_is_refused(url: str) -> None:
    fetcher = Fetcher(timeout=5)
    for ask in (fetcher.fetch, fetcher.check):
        with pytest.raises(InvalidRequest, match=r"not at a public address|cannot be resolved"):
            await ask(url)


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(parse_address(text))


async def test_a_name_that_resolves_to_loopback_is_refused() -> None:
    fetcher = Fetcher(resolver=names(harmless_example="127.0.0.1"))
    with pytest.raises(InvalidRequest, match="not at a public address") as caught:
        await fetcher.fetch("http://harmless.example/")
    assert caught.value.param == "input_image_url"
    assert "127.0.0.1" not in caught.value.message


async def test_only_the_admitted_addresses_of_a_name_are_asked() -> None:
    async with serve(reply(b"picture")) as origin:
        resolver = names(mixed_example=["10.0.0.1", "127.0.0.2", "127.0.0.1"])
        fetcher = Fetcher(allow=["127.0.0.1/32"], resolver=resolver)
        assert await fetcher.fetch(f"http://mixed.example:{origin.port}/") == b"picture"
        assert f"host: mixed.example:{origin.port}" in origin.heads[0].lower()


async def test_the_next_address_is_tried_when_one_refuses_the_connection() -> None:
    async with serve(reply(b"picture")) as origin:
        resolver = names(two_example=["127.0.0.9", "127.0.0.1"])
        fetcher = Fetcher(allow=LOOPBACK, resolver=resolver)
        assert await fetcher.fetch(f"http://two.example:{origin.port}/") == b"picture"


@pytest.mark.parametrize(
    "location", ["http://10.0.0.1/", "http://[::1]/", "http://inner.example/", "file:///etc/passwd"]
)
async def test_a_redirect_to_a_private_address_is_refused(location: str) -> None:
    async with serve(redirect(location)) as origin:
        fetcher = Fetcher(allow=["127.0.0.1/32"], resolver=names(inner_example="127.0.0.2"))
        with pytest.raises(InvalidRequest, match=r"not at a public address|scheme"):
            await fetcher.fetch(f"http://127.0.0.1:{origin.port}/")


async def test_redirects_are_followed_up_to_the_limit() -> None:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        left = int(head.split(" ")[1].strip("/"))
        await (redirect(f"/{left - 1}") if left else reply(b"picture"))(head, writer)

    async with serve(answer) as origin:
        fetcher = Fetcher(allow=LOOPBACK, max_redirects=2)
        assert await fetcher.fetch(f"http://127.0.0.1:{origin.port}/2") == b"picture"
        with pytest.raises(InvalidRequest, match="more than 2 times"):
            await fetcher.fetch(f"http://127.0.0.1:{origin.port}/3")


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    calls: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        calls.append(host)
        return ["127.0.0.1"] if len(calls) == 1 else ["127.0.0.2"]

    async with serve(reply(b"the checked one")) as origin:
        fetcher = Fetcher(allow=["127.0.0.1/32"], resolver=rebinding)
        data = await fetcher.fetch(f"http://rebind.example:{origin.port}/")
        assert data == b"the checked one"
        assert calls == ["rebind.example"]
        with pytest.raises(InvalidRequest, match="not at a public address"):
            await fetcher.fetch(f"http://rebind.example:{origin.port}/")


async def test_tls_is_checked_for_the_name_although_the_address_is_asked(tmp_path: Path) -> None:
    server_tls, client_tls = tls_contexts("pictures.example", tmp_path)
    resolver = names(pictures_example="127.0.0.1", other_example="127.0.0.1")
    async with serve(reply(b"picture"), server_tls) as origin:
        fetcher = Fetcher(allow=LOOPBACK, resolver=resolver, tls=client_tls)
        assert await fetcher.fetch(f"https://pictures.example:{origin.port}/") == b"picture"
        with pytest.raises(InvalidRequest, match="no connection"):
            await fetcher.fetch(f"https://other.example:{origin.port}/")


async def test_a_body_over_the_limit_is_refused_declared_or_not() -> None:
    async def endless(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 65536)
            await writer.drain()

    for answer in (reply(b"x" * 2000), endless):
        async with serve(answer) as origin:
            fetcher = Fetcher(allow=LOOPBACK, max_bytes=1000, timeout=5)
            with pytest.raises(InvalidRequest, match="more than the accepted 1000 bytes"):
                await fetcher.fetch(f"http://127.0.0.1:{origin.port}/")


async def test_a_body_that_drips_runs_into_the_total_time() -> None:
    async def drip(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with serve(drip) as origin:
        fetcher = Fetcher(allow=LOOPBACK, timeout=0.4)
        started = asyncio.get_running_loop().time()
        with pytest.raises(InvalidRequest, match="too long"):
            await fetcher.fetch(f"http://127.0.0.1:{origin.port}/")
        assert asyncio.get_running_loop().time() - started < 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply(b"", status="404 Not Found"), "answered 404"),
        (reply(b"zip", "Content-Encoding: gzip"), "encoded body"),
    ],
    ids=["not found", "encoded"],
)
async def test_an_answer_that_is_no_picture_is_refused(answer: Answer, reason: str) -> None:
    async with serve(answer) as origin:
        with pytest.raises(InvalidRequest, match=reason):
            await Fetcher(allow=LOOPBACK).fetch(f"http://127.0.0.1:{origin.port}/")


async def test_a_connection_that_is_refused_is_told_plainly() -> None:
    async with serve(reply(b"")) as origin:
        port = origin.port
    with pytest.raises(InvalidRequest, match="no connection could be made"):
        await Fetcher(allow=LOOPBACK).fetch(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    "url", ["", "picture.png", "ftp://8.8.8.8/", "file:///etc/passwd", "http://", "http://[", "h:1"]
)
async def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="input_image_url cannot be reached"):
        await Fetcher(timeout=5).fetch(url)


@pytest.mark.parametrize(
    ("url", "data"),
    [
        (f"data:image/png;base64,{base64.b64encode(b'picture').decode()}", b"picture"),
        ("DATA:image/png;BASE64,cGlj dHVyZQ%3D%3D", b"picture"),
        ("data:,a%20b", b"a b"),
    ],
    ids=["base64", "spaces and escapes", "text"],
)
async def test_data_urls_are_read(url: str, data: bytes) -> None:
    assert await Fetcher().fetch(url) == data


@pytest.mark.parametrize("url", ["data:nothing", "data:;base64,???", "data:," + "x" * 2000])
async def test_bad_data_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        await Fetcher(max_bytes=1000).fetch(url)


async def test_posting_sends_own_headers_only_to_admitted_or_trusted_addresses() -> None:
    async with serve(reply(b"", status="204 No Content")) as origin:
        url = f"http://127.0.0.1:{origin.port}/hook"
        secret = {"x-secret": "s"}
        for fetcher, is_trusted in ((Fetcher(allow=LOOPBACK), False), (Fetcher(), True)):
            status = await fetcher.post(
                url, b"{}", headers={"x-a": "1"}, own_headers=secret, is_trusted=is_trusted
            )
            assert status == 204
        with pytest.raises(InvalidRequest, match="not at a public address"):
            await Fetcher().post(url, b"{}", headers={}, own_headers=secret)
    assert len(origin.heads) == 2
    assert all("x-secret: s" in head and "x-a: 1" in head for head in origin.heads)


async def test_posting_to_a_public_address_leaves_out_own_headers() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(204)

    guard = Guard(LOOPBACK, names(public_example="8.8.8.8"))
    transport = PinnedTransport(httpx.MockTransport(answer), guard, {"x-secret": "s"})
    await transport.handle_async_request(httpx.Request("POST", "https://public.example/hook"))
    assert seen[0].url.host == "8.8.8.8"
    assert seen[0].extensions["sni_hostname"] == "public.example"
    assert "x-secret" not in seen[0].headers


async def test_a_post_follows_no_redirect() -> None:
    async with serve(redirect("http://127.0.0.1:1/")) as origin:
        url = f"http://127.0.0.1:{origin.port}/"
        assert await Fetcher(allow=LOOPBACK).post(url, b"", headers={}) == 302


async def test_a_network_that_is_none_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        Fetcher(allow=["everything"])


def tls_contexts(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for ``name``, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / f"{name}.pem"
    path.write_bytes(private + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cadata=pem.decode())
    return server, client
