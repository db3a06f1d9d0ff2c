"""Folders of models in Hugging Face's format: read, checked field by field, and written.

May import `rljax.rlhf.data` and `rljax.rlhf.models`.
"""

from rljax.rlhf.pretrained.files import PretrainedError
from rljax.rlhf.pretrained.weights import (
    load_for_training,
    load_language_model,
    load_reward_model,
    save,
    save_language_model,
    save_reward_model,
)

__all__ = [
    "PretrainedError", "load_for_training", "load_language_model", "load_reward_model", "save",
    "save_language_model", "save_reward_model",
]  # fmt: skip
