"""Reinforcement learning from human feedback: rewards from a model, of whole completions."""

from rljax.rlhf.model import Rope, Transformer, TransformerConfig
from rljax.rlhf.pretrained import (
    load_language_model,
    load_reward_model,
    save_language_model,
    save_reward_model,
)
from rljax.rlhf.reward_model import RewardModel
from rljax.rlhf.scoring import Scorer
from rljax.rlhf.tokenizer import ByteTokenizer, load_tokenizer
from rljax.rlhf.tokens import Encoding, encode_pair, encoding_for

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
