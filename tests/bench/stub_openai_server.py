"""A server on loopback that answers as an OpenAI-compatible one would, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StubServer:
    """Answers like an OpenAI-compatible server. `bodies`: what was asked, path by path.

    `refuse`: status to answer completions with after the first one, which is the trial.
    `events`: the lines of a completion's stream.
    """

    def __init__(self) -> None:
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.refuse: int | None = None
        self.tokenize = True
        self.events = self.stream(["Par", "is", "."], usage={"prompt_tokens": 5, "completion_tokens": 3})
        self.at_work = 0
        self.most_at_work = 0
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                stub.keys.append(self.headers.get("Authorization"))
                self._answer(200, {"data": [{"id": "stub"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub._lock:
                    stub.bodies.append((self.path, body))
                    completions = sum("completions" in path for path, _ in stub.bodies)
                if self.path == "/tokenize":
                    tokens = {"tokens": [11, 12, 13, 14], "count": 4}
                    self._answer(*((200, tokens) if stub.tokenize else (404, {"detail": "Not Found"})))
                elif stub.refuse and completions > 1:
                    self._answer(stub.refuse, {"error": {"message": "the queue is full"}})
                else:
                    self._stream()

            def _answer(self, status: int, content: dict[str, Any]) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _stream(self) -> None:
                with stub._lock:
                    stub.at_work += 1
                    stub.most_at_work = max(stub.most_at_work, stub.at_work)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for event in stub.events:
                    self.wfile.write(f"data: {event}\n\n".encode())
                    self.wfile.flush()
                with stub._lock:
                    stub.at_work -= 1

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The bodies of all requests for `path`."""
        return [body for found, body in self.bodies if found == path]

    @staticmethod
    def stream(texts: list[str], usage: dict[str, int] | None, *, done: bool = True) -> list[str]:
        """The data lines of a stream with these texts."""
        events = [json.dumps({"choices": [{"index": 0, "text": text}]}) for text in texts]
        if usage is not None:
            events.append(json.dumps({"choices": [], "usage": usage}))
        return [*events, "[DONE]"] if done else events

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
