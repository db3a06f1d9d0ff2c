"""From text to tokens: tokenizers, and the one encoding of a prompt with its completion.

Imports nothing else of `rljax.rlhf`.
"""

from rljax.rlhf.data.encoding import (
    EncodedPair,
    EncodingConfig,
    EncodingError,
    Tokens,
    encode_pair,
    encode_pairs,
    encoding_config,
)
from rljax.rlhf.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "ByteTokenizer", "EncodedPair", "EncodingConfig", "EncodingError", "Tokenizer",
    "Tokens", "encode_pair", "encode_pairs", "encoding_config", "load_tokenizer",
]  # fmt: skip
