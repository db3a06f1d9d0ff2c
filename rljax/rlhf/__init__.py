"""Reinforcement learning from human feedback: text, models, scores, and reward learning.

Sub-packages import downward: `data` < `models` < `pretrained` < `scoring` < `training` <
`evaluation`; `segments`, of preferences for behaviour, stands by itself. They may import
`rljax.training` and what lies below it; `sweeps` and the packages for control never import
this one.
"""

from rljax.rlhf.data import (
    ByteTokenizer,
    EncodingConfig,
    Pair,
    TokenPair,
    Transcript,
    encode_pair,
    encoding_config,
    load_tokenizer,
)
from rljax.rlhf.models import (
    RewardModel,
    Rope,
    Transformer,
    TransformerConfig,
)
from rljax.rlhf.pretrained import (
    load_language_model,
    load_reward_model,
    save_language_model,
    save_reward_model,
)
from rljax.rlhf.scoring import Scorer

__all__ = [
    "ByteTokenizer", "EncodingConfig", "Pair", "RewardModel", "Rope", "Scorer",
    "TokenPair", "Transcript", "Transformer", "TransformerConfig", "encode_pair", "encoding_config",
    "load_language_model", "load_reward_model", "load_tokenizer",
    "save_language_model", "save_reward_model",
]  # fmt: skip
