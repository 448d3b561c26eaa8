"""A small HTTP/1.1 client over asyncio's streams, which costs a benchmark next to nothing.

What a measured server sends is read and told; there are no redirects, cookies or proxies here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

_CONNECT_SECONDS = 10.0
_PIECE = 1 << 16


class TransferError(Exception):
    """A server that could not be reached, broke off, or does not speak HTTP; its message is one line."""


@dataclass(slots=True)
class Answer:
    """An answer whose body is still to be read. Names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    _version: str
    _reader: asyncio.StreamReader
    _read: bool = False

    @property
    def reason(self) -> str:
        """As ``404 Not Found``."""
        known = {one.value: one.phrase for one in HTTPStatus}
        return f"{self.status} {known.get(self.status, '')}".rstrip()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, piece by piece as it arrives."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await self._reader.readuntil(b"\n")).partition(b";")[0], 16):
                yield await self._reader.readexactly(size)
                await self._reader.readuntil(b"\n")
            while (await self._reader.readuntil(b"\n")).strip():  # trailers
                pass
        elif "content-length" in self.headers:
            left = int(self.headers["content-length"])
            while left:
                piece = await self._reader.read(min(left, _PIECE))
                if not piece:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(piece)
                yield piece
        else:
            while piece := await self._reader.read(_PIECE):
                yield piece
        self._read = True

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces()])

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request: the body is read, and neither end closes."""
        bounded = "content-length" in self.headers or "transfer-encoding" in self.headers
        kept = self.headers.get("connection", "").lower() != "close" and self._version != "HTTP/1.0"
        return self._read and bounded and kept


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpClient:
    """Requests to one server. Connections are kept, and opened as many as there are requests at once."""

    def __init__(self, base_url: str, api_key: str | None = None, *, most_seconds: float = 3600.0) -> None:
        """`most_seconds`: what a request may take; a server that needs longer counts as stuck.

        Raises `ValueError` for what is no URL.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not a URL such as http://127.0.0.1:8000")
        self.base_url = base_url
        self._host, self._path = parts.hostname, parts.path.rstrip("/")
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._common = f"Host: {parts.netloc.rpartition('@')[2]}\r\nAccept: */*\r\n{key}"
        self._most_seconds = most_seconds
        self._idle: list[_Connection] = []

    @asynccontextmanager
    async def request(self, method: str, path: str, body: bytes | None = None) -> AsyncIterator[Answer]:
        """Send a request, with JSON as its body, and yield its answer. Raises `TransferError`."""
        connection, reusable = await self._connect(), False
        try:
            async with asyncio.timeout(self._most_seconds):
                answer = await self._exchange(connection, method, path, body)
                yield answer
                reusable = answer.reusable and not connection[0].at_eof()
        except TimeoutError:
            raise TransferError(f"no end within {self._most_seconds:.0f} s") from None
        except asyncio.IncompleteReadError:
            raise TransferError("the connection broke off") from None
        except (asyncio.LimitOverrunError, ValueError, IndexError):
            raise TransferError("what answers does not speak HTTP/1.1") from None
        except OSError as error:
            raise TransferError(error.strerror or str(error)) from None
        finally:
            if reusable:
                self._idle.append(connection)
            else:
                connection[1].close()

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection[0].at_eof():  # else the server closed it while nobody used it
                return connection
            connection[1].close()
        opening = asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            return await asyncio.wait_for(opening, _CONNECT_SECONDS)
        except TimeoutError:
            raise TransferError(f"no connection within {_CONNECT_SECONDS:.0f} s") from None
        except OSError as error:
            raise TransferError(error.strerror or str(error)) from None

    async def _exchange(self, connection: _Connection, method: str, path: str, body: bytes | None) -> Answer:
        reader, writer = connection
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._common}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode("latin-1") + b"\r\n" + (body or b""))
        await writer.drain()
        status = 100
        while 100 <= status < 200:
            lines = await reader.readuntil(b"\r\n\r\n")
            first, *fields = lines.decode("latin-1").split("\r\n")[:-2]
            version, code, *_ = first.split(" ")
            status = int(code)
        named = (field.partition(":") for field in fields)
        return Answer(status, {name.lower(): value.strip() for name, _, value in named}, version, reader)

    def close(self) -> None:
        """Close the connections that are kept."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()
