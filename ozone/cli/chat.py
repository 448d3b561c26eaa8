"""`ozone chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from ozone.cli.answer_text import print_answer
from ozone.cli.generate import GenerationStats
from ozone.cli.sampling_flags import add_sampling_arguments, sampling_changes
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.engine.sampling_params import SamplingParams
from ozone.entrypoints.console import start_logging
from ozone.entrypoints.startup import StartupTimer, process_start_time
from ozone.errors import RequestError, escaped

if TYPE_CHECKING:
    from ozone.entrypoints.assemble import LoadedModel

_HELP = """/reset   forget the conversation
/system TEXT   start again with this system message
/undo   take back the last question and its answer
/stats   show the timings of the last answer
/help   show this
/quit   leave (or Ctrl-D); Ctrl-C stops an answer"""


def main(argv: list[str]) -> int:
    """Chat until the user leaves; returns the exit code."""
    timer = StartupTimer(process_start_time())
    parser = ArgumentParser(
        prog="ozone chat",
        description="Chat with a model in this terminal. Commands inside the chat:\n" + _HELP,
    )
    parser.add_argument("--system", metavar="TEXT", help="system message")
    add_sampling_arguments(parser, leave_out=("n", "logprobs", "prompt_logprobs"))
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    changes = {"max_tokens": None, **sampling_changes(namespace)}
    SamplingParams(**changes)
    start_logging()

    from ozone.entrypoints.assemble import load

    loaded = load(engine_args(namespace), timer=timer)
    try:
        print(f"{escaped(loaded.config.model.model)}, {loaded.startup.line()}. /help lists the commands.")
        Conversation(loaded, loaded.default_sampling_params(**changes), namespace.system).run()
    finally:
        loaded.engine.shutdown()
    return 0


class Conversation:
    """The messages so far and the loop that extends them."""

    def __init__(self, loaded: LoadedModel, params: SamplingParams, system: str | None) -> None:
        self._loaded = loaded
        self._params = params
        self._system = system
        self._messages: list[dict[str, Any]] = []
        self._last: GenerationStats | None = None
        self._reset()

    def run(self) -> None:
        """Read lines until end of file or ``/quit``."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() a history and line editing)
        prompt = "> " if sys.stdin.isatty() else ""
        while True:
            try:
                line = input(prompt).strip()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n(/quit leaves)")
                continue
            if line == "/quit":
                return
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._ask(line)

    def _reset(self) -> None:
        self._messages = [] if self._system is None else [{"role": "system", "content": self._system}]

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name == "/reset":
            self._reset()
        elif name == "/system":
            self._system = argument or None
            self._reset()
        elif name == "/undo":
            while self._messages and self._messages.pop()["role"] != "user":
                pass
        elif name == "/stats":
            print("nothing was answered yet" if self._last is None else self._last.line())
        elif name == "/help":
            print(_HELP)
        else:
            print(f"there is no command {escaped(name)}\n{_HELP}")

    def _ask(self, question: str) -> None:
        from ozone.entrypoints.streaming import stream

        self._messages.append({"role": "user", "content": question})
        answer = ""
        try:
            ids = self._loaded.encode_chat(self._messages)
            self._last = GenerationStats(prompt_tokens=len(ids))
            for delta in stream(self._loaded.engine, ids, self._params):
                self._last.count(len(delta.token_ids))
                if delta.error is not None:
                    raise RequestError(delta.error)
                answer += delta.text
                print_answer(delta.text, end="")
        except KeyboardInterrupt:
            pass  # the partial answer stays in the conversation
        except RequestError as error:
            self._messages.pop()
            print(f"error: {escaped(str(error))}")
            return
        print()
        self._messages.append({"role": "assistant", "content": answer})
