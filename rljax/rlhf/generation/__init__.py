"""Completions of prompts, sampled from a language model.

`generate` is a function of arrays, for use in other programs; a `Generator` completes
texts and chats, and `generate_file` a file of them. May import `rljax.rlhf.data`,
`row_files`, `models` and `pretrained`.
"""

from rljax.rlhf.generation.decoding import Sampling
from rljax.rlhf.generation.generate import Generated, generate
from rljax.rlhf.generation.generate_file import generate_file
from rljax.rlhf.generation.generator import Completion, Generator
from rljax.rlhf.generation.sampling import Truncation
from rljax.rlhf.generation.stopping import read_stop_ids

__all__ = [
    "Completion", "Generated", "Generator", "Sampling", "Truncation", "generate",
    "generate_file", "read_stop_ids",
]  # fmt: skip
