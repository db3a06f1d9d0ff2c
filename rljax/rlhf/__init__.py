"""Reinforcement learning from human feedback: rewards from a model, of whole completions."""

from rljax.rlhf.data.encoding import Encoding, encode_pair, encoding_for
from rljax.rlhf.data.tokenizer import ByteTokenizer, load_tokenizer
from rljax.rlhf.models.hf_weights import (
    load_language_model,
    load_reward_model,
    save_language_model,
    save_reward_model,
)
from rljax.rlhf.models.reward_model import RewardModel
from rljax.rlhf.models.transformer import Rope, Transformer, TransformerConfig
from rljax.rlhf.scoring.scorer import Scorer

__all__ = [
    "ByteTokenizer",
    "Encoding",
    "RewardModel",
    "Rope",
    "Scorer",
    "Transformer",
    "TransformerConfig",
    "encode_pair",
    "encoding_for",
    "load_language_model",
    "load_reward_model",
    "load_tokenizer",
    "save_language_model",
    "save_reward_model",
]
