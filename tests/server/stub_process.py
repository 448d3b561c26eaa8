"""The stub's server as a process of its own."""

from __future__ import annotations

import contextlib
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path

import httpx

PROGRAM = Path(__file__).with_name("serve_stub.py")


class Process:
    def __init__(self, *arguments: str, files: int | None = None) -> None:
        """`files`: the most that it may open."""

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        self.popen = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=None if files is None else limit,
        )
        lines = []
        for line in self.popen.stderr:
            lines.append(line)
            if found := re.search(r"Serving stub at (http\S*)/v1\n", line):
                self.url = found[1]
                return
        raise AssertionError("".join(lines))

    def stream_in_background(self, max_tokens: int) -> tuple[threading.Thread, list[str]]:
        """Start to stream an answer; returns once its first event is there."""
        lines: list[str] = []
        begun = threading.Event()

        def read() -> None:
            body = {"prompt": "x", "max_tokens": max_tokens, "temperature": 0, "stream": True}
            with (
                contextlib.suppress(httpx.HTTPError),
                httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=20) as answer,
            ):
                for line in answer.iter_lines():
                    lines.extend([line] if line else [])
                    begun.set()

        thread = threading.Thread(target=read)
        thread.start()
        assert begun.wait(10)
        return thread, lines
