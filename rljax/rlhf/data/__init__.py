"""From text to tokens: tokenizers, and the one encoding of a prompt with its completion.

Imports nothing else of `rljax.rlhf`.
"""

from rljax.rlhf.data.encoding import (
    EncodedPair,
    EncodingConfig,
    EncodingError,
    encode_pair,
    encode_pairs,
    encoding_config,
)
from rljax.rlhf.data.forms import Columns, FormError, read_form
from rljax.rlhf.data.pairs import Pair, TokenPair, Tokens, Transcript
from rljax.rlhf.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "ByteTokenizer", "Columns", "EncodedPair", "EncodingConfig", "EncodingError",
    "FormError", "Pair", "TokenPair", "Tokenizer", "Tokens", "Transcript",
    "encode_pair", "encode_pairs", "encoding_config", "load_tokenizer", "read_form",
]  # fmt: skip
