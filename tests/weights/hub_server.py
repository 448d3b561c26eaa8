"""A loopback HTTP server that serves a few repositories in the hub's own URL layout."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Files by revision; `gated`: files need an accepted licence; `private`: all needs a token; `answer`:
    what is said about the repository in place of what a hub says."""

    revisions: Mapping[str, Mapping[str, bytes]]
    gated: bool = False
    private: bool = False
    answer: bytes | None = None

    def commit(self, revision: str) -> str | None:
        for name in self.revisions:
            commit = hashlib.sha1(name.encode()).hexdigest()
            if revision in (name, commit):
                return commit
        return None

    def files(self, commit: str) -> Mapping[str, bytes]:
        return next(files for name, files in self.revisions.items() if self.commit(name) == commit)


@dataclass
class HubServer:
    """A running server: its address, and every request for a repository as (method, path, Authorization)."""

    url: str
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def downloads(self) -> list[str]:
        return sorted(
            path.split("/")[-1]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        )


TOKEN = "hf_secret"


@contextmanager
def serve_hub(repositories: Mapping[str, Repository]) -> Iterator[HubServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None: ...

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            if "owner/" in path:  # the client asks for other things on its own account
                hub.requests.append((self.command, path, self.headers.get("Authorization")))
            status, headers, data = self.route(path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def route(self, path: str) -> tuple[int, dict[str, str], bytes]:
            parts = path.removeprefix("api/models/").split("/")
            repository = repositories.get("/".join(parts[:2]))
            has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if repository is None or (repository.private and not has_token):
                return 401, {"X-Error-Code": "RepoNotFound"}, b""
            if path.startswith("api/models/"):
                return self.describe(repository, "/".join(parts[:2]), parts[2:])
            return self.file(repository, parts[3], "/".join(parts[4:]), has_token)

        def describe(
            self, repository: Repository, name: str, rest: list[str]
        ) -> tuple[int, dict[str, str], bytes]:
            commit = repository.commit(rest[1] if rest else "main")
            if commit is None:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            if repository.answer is not None:
                return 200, {"Content-Type": "application/json"}, repository.answer
            files = repository.files(commit)
            content: object
            if rest and rest[0] == "tree":
                content = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                ]
            else:
                content = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()

        def file(
            self, repository: Repository, revision: str, path: str, has_token: bool
        ) -> tuple[int, dict[str, str], bytes]:
            commit = repository.commit(revision)
            if commit is None:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            if repository.gated and not has_token:
                return 403, {"X-Error-Code": "GatedRepo"}, b""
            data = repository.files(commit).get(path)
            if data is None:
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
            return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}, data

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = HubServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
