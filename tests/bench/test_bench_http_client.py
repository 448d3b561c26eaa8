"""The benchmarks' HTTP client: bodies of every framing, connections that are kept, and servers that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ozone.bench.http_client import HttpClient, TransferError

OK = b"HTTP/1.1 200 OK\r\n"


def talk(
    answers: list[bytes], use: Callable[[HttpClient], Any], path: str = ""
) -> tuple[Any, list[bytes], int]:
    """What `use` returns with a server that gives these answers, the heads that it got, and connections."""

    async def run() -> tuple[Any, list[bytes], int]:
        heads: list[bytes] = []
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            while answers:
                try:
                    heads.append(await reader.readuntil(b"\r\n\r\n"))
                except asyncio.IncompleteReadError:
                    break
                answer = answers.pop(0)
                writer.write(answer.removesuffix(b"CLOSE"))
                if answer.endswith(b"CLOSE"):
                    break
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = HttpClient(f"http://127.0.0.1:{port}{path}", "secret", most_seconds=5)
        try:
            return await use(client), heads, connections
        finally:
            client.close()
            server.close()

    return asyncio.run(run())


async def get(client: HttpClient) -> tuple[int, bytes]:
    async with client.request("GET", "/x") as answer:
        return answer.status, await answer.read()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (
            OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nTrailer: x\r\n\r\n",
            b"hello",
        ),
        (OK + b"\r\nhelloCLOSE", b"hello"),
        (OK + b"content-length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na", b"a"),
    ],
)
def test_a_body_is_read_however_it_is_framed(answer: bytes, body: bytes) -> None:
    (status, got), heads, _ = talk([answer], get, "/base/")
    assert (status, got) == (200, body)
    assert heads[0].startswith(b"GET /base/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Authorization: Bearer secret\r\n" in heads[0]


def test_chunks_come_one_by_one() -> None:
    async def pieces(client: HttpClient) -> list[bytes]:
        async with client.request("POST", "/", b"{}") as answer:
            return [piece async for piece in answer.pieces()]

    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
    got, heads, _ = talk([chunked], pieces)
    assert got == [b"abc", b"d"]
    assert b"Content-Length: 2\r\n" in heads[0]


@pytest.mark.parametrize(
    ("first", "connections"),
    [
        (OK + b"Content-Length: 1\r\n\r\na", 1),
        (OK + b"Content-Length: 1\r\nConnection: close\r\n\r\naCLOSE", 2),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\naCLOSE", 2),
    ],
)
def test_a_connection_is_kept_where_the_server_keeps_it(first: bytes, connections: int) -> None:
    async def twice(client: HttpClient) -> list[tuple[int, bytes]]:
        return [await get(client), await get(client)]

    got, _, opened = talk([first, OK + b"Content-Length: 1\r\n\r\nb"], twice)
    assert got == [(200, b"a"), (200, b"b")] and opened == connections


def test_what_is_left_of_a_body_is_never_taken_for_the_next_answer() -> None:
    async def leave(client: HttpClient) -> tuple[int, bytes]:
        async with client.request("GET", "/") as answer:
            assert answer.status == 200
        return await get(client)

    answers = [OK + b"Content-Length: 40\r\n\r\n" + b"x" * 40, OK + b"Content-Length: 1\r\n\r\nb"]
    assert talk(answers, leave)[0] == (200, b"b")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"CLOSE", "broke off"),
        (OK + b"Content-Length: 5\r\n\r\nheCLOSE", "broke off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nheCLOSE", "broke off"),
        (b"SSH-2.0-x\r\n\r\n", "does not speak HTTP"),
        (OK + b"Content-Length: many\r\n\r\n", "does not speak HTTP"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "does not speak HTTP"),
        (OK + b"x" * 100_000, "does not speak HTTP"),
    ],
)
def test_a_server_that_fails_is_one_line(answer: bytes, message: str) -> None:
    with pytest.raises(TransferError, match=message):
        talk([answer], get)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://a:b"])
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(ValueError):
        HttpClient(url)
