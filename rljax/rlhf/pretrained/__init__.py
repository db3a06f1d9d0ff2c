"""Folders of models in Hugging Face's format, read and written; GGUF files, read.

May import `rljax.rlhf.data` and `rljax.rlhf.models`.
"""

from rljax.rlhf.pretrained.files import PretrainedError
from rljax.rlhf.pretrained.gguf import convert_gguf, load_gguf, read_gguf
from rljax.rlhf.pretrained.weights import (
    load_for_training,
    load_language_model,
    load_reward_model,
    save,
    save_language_model,
    save_reward_model,
)

__all__ = [
    "PretrainedError", "convert_gguf", "load_for_training", "load_gguf",
    "load_language_model", "load_reward_model", "read_gguf", "save",
    "save_language_model", "save_reward_model",
]  # fmt: skip
