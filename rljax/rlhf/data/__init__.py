"""From text to tokens: data sets, tokenizers, and the one encoding of a prompt.

`read_preferences`, `read_completions`, `read_ratings` and `read_labelled` read files of
many forms; `tokenize_rankings`, `tokenize_completions`, `tokenize_ratings` and
`tokenize_labelled` make of them what a learner reads. Imports nothing else of `rljax.rlhf`.
"""

from rljax.rlhf.data.datasets import (
    DataError,
    Labels,
    Preference,
    Records,
    read_completions,
    read_preferences,
    read_prompts,
    read_ratings,
)
from rljax.rlhf.data.encoding import (
    EncodedPair,
    EncodingConfig,
    EncodingError,
    encode_pair,
    encode_pairs,
    encoding_config,
)
from rljax.rlhf.data.forms import Columns, FormError, read_form
from rljax.rlhf.data.labelled import Labelled, read_labelled, tokenize_labelled
from rljax.rlhf.data.pairs import Pair, TokenPair, Tokens, Transcript
from rljax.rlhf.data.ratings import (
    Rated,
    RatedPairs,
    pairs_by_gap,
    pairs_by_raters,
    split_places,
)
from rljax.rlhf.data.rows import (
    Completions,
    LabelledCompletions,
    Rankings,
    Ratings,
    left_padded,
)
from rljax.rlhf.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from rljax.rlhf.data.training_sets import (
    Counts,
    TrainingSet,
    resident_bytes,
    tokenize_completions,
    tokenize_rankings,
    tokenize_ratings,
)

__all__ = [
    "ByteTokenizer", "Columns", "Completions", "Counts", "DataError", "EncodedPair",
    "EncodingConfig", "EncodingError", "FormError", "Labelled", "LabelledCompletions",
    "Labels", "Pair", "Preference", "Rankings", "Rated", "RatedPairs", "Ratings",
    "Records", "TokenPair", "Tokenizer", "Tokens", "TrainingSet", "Transcript",
    "encode_pair", "encode_pairs", "encoding_config", "left_padded", "load_tokenizer",
    "pairs_by_gap",
    "pairs_by_raters", "read_completions", "read_form", "read_labelled",
    "read_preferences", "read_prompts", "read_ratings", "resident_bytes",
    "split_places", "tokenize_completions", "tokenize_labelled", "tokenize_rankings",
    "tokenize_ratings",
]  # fmt: skip
