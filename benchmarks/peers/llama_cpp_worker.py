"""llama.cpp through llama-cpp-python's `Llama.generate`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice

import llama_cpp
from worker import serve

threads = int(sys.argv[2])
model = llama_cpp.Llama(sys.argv[1], n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)


def generate(token_ids: list[int], output_tokens: int) -> Iterator[object]:
    model.reset()
    return islice(model.generate(token_ids, top_k=1, temp=0.0, repeat_penalty=1.0), output_tokens)


serve(llama_cpp.__version__, generate)
