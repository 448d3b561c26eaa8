"""OpenVINO GenAI's `LLMPipeline`, which reads GGUF files of some architectures and types."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator

import numpy
import openvino as ov
import openvino_genai as genai
from worker import serve

pipeline = genai.LLMPipeline(sys.argv[1], "CPU", INFERENCE_NUM_THREADS=int(sys.argv[2]))
_END = object()


class Tokens(genai.StreamerBase):
    """Puts every token into a queue."""

    def __init__(self, tokens: queue.SimpleQueue) -> None:
        super().__init__()
        self._tokens = tokens

    def write(self, token: object) -> genai.StreamingStatus:
        for each in token if isinstance(token, list) else [token]:
            self._tokens.put(each)
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        self._tokens.put(_END)


def generate(token_ids: list[int], output_tokens: int) -> Iterator[object]:
    tokens: queue.SimpleQueue = queue.SimpleQueue()
    config = genai.GenerationConfig(max_new_tokens=output_tokens, ignore_eos=True, do_sample=False)
    inputs = ov.Tensor(numpy.array([token_ids], dtype="int64"))
    thread = threading.Thread(target=pipeline.generate, args=(inputs, config, Tokens(tokens)))
    thread.start()
    while (token := tokens.get()) is not _END:
        yield token
    thread.join()


serve(genai.__version__, generate)
