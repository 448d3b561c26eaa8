"""A server over a stub model: the real engine, a runner without a model, and a tokenizer of bytes.

The stub says readable letters that depend on the last few tokens, and ends its answers now and then.
"""

from __future__ import annotations

import codecs
import hashlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ozone.config.schema import CacheConfig, SchedulerConfig
from ozone.engine.chat_template import ChatTemplate
from ozone.engine.engine import Engine
from ozone.engine.request import Request
from ozone.engine.runner import ScheduledRequest
from ozone.engine.sampling_table import SamplingTable
from ozone.server.flags import ServerSettings
from ozone.server.run import DrainingServer, bind
from ozone.server.state import ServerState

BOS, EOS, VOCAB_SIZE = 256, 257, 258
SPECIAL = {BOS: "<s>", EOS: "</s>"}
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'forbidden' %}{{ raise_exception('no such role') }}{% endif %}"
    "<{{ message.role }}>{{ message.content }}</>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}{{ mood or '' }}"
)


def next_token(token_ids: Sequence[int]) -> int:
    """What the stub says greedily after `token_ids`: a letter that depends on the last four."""
    digest = hashlib.blake2b(np.array(token_ids[-4:], np.int64).tobytes(), digest_size=8).digest()
    return ord("a") + int.from_bytes(digest, "little") % 26


def greedy_text(prompt: str, count: int) -> str:
    """The stub's greedy continuation, computed without an engine."""
    token_ids = list(prompt.encode())
    for _ in range(count):
        token_ids.append(next_token(token_ids))
    return bytes(token_ids[-count:]).decode()


class StubRunner:
    """`delay`: seconds a step takes; `before_step` may raise. `answer`: tokens that follow every prompt."""

    def __init__(self, num_blocks: int = 512, block_size: int = 16) -> None:
        self.answer: Sequence[int] = ()
        self.num_blocks, self.block_size, self.vocab_size = num_blocks, block_size, VOCAB_SIZE
        self.delay = 0.0
        self.before_step = lambda scheduled: None

    def execute(self, scheduled: list[ScheduledRequest], table: SamplingTable | None = None) -> np.ndarray:
        self.before_step(scheduled)
        time.sleep(self.delay)
        rows = []
        for item in scheduled:
            end = item.start + item.num_tokens
            first = {"none": end, "last": end - 1, "all": item.start}[item.logits]
            rows += [self._logits(item.request, position + 1) for position in range(first, end)]
        return np.array(rows, np.float32).reshape(len(rows), VOCAB_SIZE)

    def _logits(self, request: Request, length: int) -> np.ndarray:
        row = np.zeros(VOCAB_SIZE, np.float32)
        row[ord("a") : ord("z") + 1] = 2.0
        said = length - request.num_prompt_tokens
        scripted = 0 <= said < len(self.answer)
        row[self.answer[said] if scripted else next_token(request.token_ids[:length])] = 6.0
        return row


class StubTokenizer:
    """A token is a byte of UTF-8, but for two special ones."""

    vocab_size = VOCAB_SIZE

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return b"".join(self.token_bytes(n, skip_special_tokens) for n in ids).decode("utf-8", "replace")

    def token_text(self, token_id: int) -> str:
        return self.decode([token_id], False)

    def token_bytes(self, token_id: int, skip_special_tokens: bool = False) -> bytes:
        if token_id in SPECIAL:
            return b"" if skip_special_tokens else SPECIAL[token_id].encode()
        return bytes([token_id]) if token_id < BOS else b""

    def token_spelling(self, token_id: int) -> str:
        return SPECIAL.get(token_id) or ("\u0120" if token_id == ord(" ") else chr(token_id))

    def detokenizer(self, prompt_token_ids: Sequence[int], skip_special_tokens: bool = True):
        return StubDetokenizer(self, skip_special_tokens)


class StubDetokenizer:
    def __init__(self, tokenizer: StubTokenizer, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def append(self, token_ids: Sequence[int]) -> str:
        data = b"".join(self._tokenizer.token_bytes(n, self._skip_special_tokens) for n in token_ids)
        return self._decoder.decode(data)

    def flush(self) -> str:
        return self._decoder.decode(b"", True)


def make_state(
    *,
    settings: ServerSettings | None = None,
    max_model_len: int = 256,
    scheduler: dict | None = None,
    **fields,
) -> ServerState:
    """A state over a started engine with a stub runner, reachable as `state.engine.runner`."""
    tokenizer = StubTokenizer()
    engine = Engine(
        StubRunner(),
        tokenizer,
        cache=CacheConfig(),
        scheduler=SchedulerConfig(**(scheduler or {})),
        max_model_len=max_model_len,
        eos_token_ids=[EOS],
    )
    engine.start()
    fields.setdefault("chat_template", ChatTemplate(TEMPLATE))
    return ServerState(
        engine=engine,
        tokenizer=tokenizer,
        model_names=("stub", "alias/of-stub"),
        max_model_len=max_model_len,
        startup_report=lambda: {"total": 0.5, "phases": [{"name": "weights", "seconds": 0.25}]},
        settings=settings or ServerSettings(port=0),
        **fields,
    )


@dataclass
class RunningServer:
    state: ServerState
    url: str
    server: DrainingServer
    thread: threading.Thread

    @property
    def runner(self) -> StubRunner:
        return self.state.engine.runner

    def wait_until_idle(self, timeout: float = 10) -> None:
        """Wait until no request runs, then see that none left a block behind."""
        deadline = time.monotonic() + timeout
        while (stats := self.state.engine.stats()).num_running or stats.num_waiting:
            assert time.monotonic() < deadline, f"requests still run: {stats}"
            time.sleep(0.01)
        assert stats.num_free_blocks == stats.num_blocks


@contextmanager
def serving(state: ServerState, listener: socket.socket | None = None) -> Iterator[RunningServer]:
    """Serve `state` in a thread, on a free port."""
    listener = listener or bind(state.settings)
    port = listener.getsockname()[1]
    server = DrainingServer(state, listener)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield RunningServer(state, f"http://127.0.0.1:{port}", server, thread)
    finally:
        server.should_exit = True
        state.engine.shutdown()
        thread.join(10)
        listener.close()
