"""Language models and reward models, and their folders in Hugging Face's format.

May import `rljax.rlhf.data`.
"""

from rljax.rlhf.models.hf_files import PretrainedError
from rljax.rlhf.models.hf_weights import (
    load_language_model,
    load_reward_model,
    save,
    save_language_model,
    save_reward_model,
)
from rljax.rlhf.models.reward_model import (
    RewardModel,
    keep_first_layers,
    stack_ensemble,
)
from rljax.rlhf.models.rope import Rope
from rljax.rlhf.models.transformer import KeyValues, Transformer, TransformerConfig

__all__ = [
    "KeyValues", "PretrainedError", "RewardModel", "Rope", "Transformer",
    "TransformerConfig", "keep_first_layers", "load_language_model",
    "load_reward_model", "save", "save_language_model", "save_reward_model",
    "stack_ensemble",
]  # fmt: skip
