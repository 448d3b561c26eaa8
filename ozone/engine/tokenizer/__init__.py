"""Text to token ids and back: tokenizers from `tokenizer.json` or rebuilt from GGUF metadata.

The work is done by the `tokenizers` library, which is imported when the first tokenizer is loaded.
"""

from ozone.engine.tokenizer.detokenizer import IncrementalDetokenizer
from ozone.engine.tokenizer.loading import load_tokenizer
from ozone.engine.tokenizer.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer", "Tokenizer", "load_tokenizer"]
