"""A program that loads fuzzed model files: ``fuzz_child.py KIND FIRST END PROGRESS``.

Each case must load or be refused in one line. Faults go to stdout, a JSON object a line; the number of the
case at hand goes to the file PROGRESS, so that its parent knows the culprit where this process ends.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from fuzzed_files import Files, case  # noqa: E402

from ozone.config.args import EngineArgs  # noqa: E402
from ozone.config.platform import PlatformFacts  # noqa: E402
from ozone.config.resolve import resolve  # noqa: E402
from ozone.engine.end_tokens import gguf_end_tokens, template_end_token  # noqa: E402
from ozone.entrypoints import assemble  # noqa: E402
from ozone.errors import OzoneError, RequestError  # noqa: E402
from ozone.weights.gguf_file import StringArray  # noqa: E402
from ozone.weights.model_files import open_model  # noqa: E402

MOST_BYTES = 2 << 30
MOST_SECONDS = 20.0  # a hang; the longest that a chat template may take is 5
PLATFORM = PlatformFacts(
    name="cpu",
    cpu_model="a test's",
    isa="avx2",
    num_cores=2,
    memory_bytes=8 << 30,
    available_bytes=6 << 30,
    native=True,
)
MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


class Lines(logging.Handler):
    """What was logged, and what was wrong with it."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if not line.isprintable() or len(line) > 1000:
            self.wrong.append(f"logged: {line[:200]!r}, {len(line)} characters")


def load(path: Path) -> None:
    """All that a start does with a model's files but for computing: read, resolve, tokenize, render."""
    files = open_model(str(path))
    config = resolve(EngineArgs(model=str(path)), files.config, PLATFORM)
    weights = files.open_weights()
    for value in (files.gguf_metadata or {}).values():
        if isinstance(value, StringArray):
            list(value)
    for name in weights.names():
        assert weights.get(name).data.ndim == 1
    tokenizer = assemble.tokenizer_of(files, config)
    ids = tokenizer.encode("Hello, wörld! 😀  </s>a" * 3)
    tokenizer.decode(ids)
    stream = tokenizer.detokenizer([])
    stream.append(ids)
    stream.flush()
    gguf_end_tokens(tokenizer, files.gguf_metadata or {})
    template = assemble._chat_template(files, tokenizer, None)
    generation = assemble._generation_config(files, "auto")
    assemble._default_sampling(generation)
    if template is not None:
        template_end_token(tokenizer, template)
        template.render(MESSAGES)


def fault(files: Files, folder: Path, lines: Lines) -> str | None:
    """What is wrong with how these files are taken."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    lines.wrong.clear()
    try:
        load(folder / "model.gguf" if "model.gguf" in files else folder)
    except RequestError as error:
        message = str(error)  # a template that does not take these messages
    except OzoneError as error:
        message = str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return traceback.format_exc()[-3000:]
    else:
        message = "loaded"
    if not message or not message.isprintable() or len(message) > 1500:
        return f"not one short printable line: {message[:300]!r}, {len(message)} characters"
    return lines.wrong[0] if lines.wrong else None


def main(kind: str, first: int, end: int, progress: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lines = Lines()
    logging.getLogger().addHandler(lines)
    with tempfile.TemporaryDirectory() as name:
        os.environ["OZONE_CACHE_DIR"] = name
        for number in range(first, end):
            progress.write_text(str(number), encoding="ascii")
            # Its default action ends the process even in the midst of a library's loop.
            signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
            found = fault(case(kind, number), Path(name) / "model", lines)
            signal.setitimer(signal.ITIMER_REAL, 0)
            shutil.rmtree(Path(name) / "tokenizers", ignore_errors=True)
            if found is not None:
                print(json.dumps({"case": number, "fault": found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
