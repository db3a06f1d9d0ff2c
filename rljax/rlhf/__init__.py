"""Reinforcement learning from human feedback: text, models, scores, and reward learning.

Sub-packages import downward: `data` < `row_files`, `models` < `pretrained` < `scoring`,
`generation` < `training` < `policy`, `direct`, `frozen`, `selection`, `evaluation` <
`recipes`; `segments`, of preferences for behaviour, stands by itself. They may import
`rljax.training` and what lies below it; `sweeps` and the packages for control never import
this one. What is here is what a program usually needs; `policy` and `selection` are used
as modules: `policy.grpo()`, `selection.best_of_n(...)`.
"""

from rljax.rlhf import policy, selection
from rljax.rlhf.data import (
    ByteTokenizer,
    EncodingConfig,
    Pair,
    TokenPair,
    Transcript,
    encode_pair,
    encoding_config,
    load_tokenizer,
    read_completions,
    read_labelled,
    read_preferences,
    read_prompts,
    read_ratings,
    tokenize_completions,
    tokenize_labelled,
    tokenize_rankings,
    tokenize_ratings,
)
from rljax.rlhf.direct import (
    DirectConfig,
    DirectHyperparams,
    DirectTask,
    direct_alignment,
    implicit_rewards,
    with_reference,
)
from rljax.rlhf.evaluation import Comparisons, evaluate_scores
from rljax.rlhf.generation import Generator, Truncation, generate
from rljax.rlhf.models import (
    Everything,
    HeadOnly,
    LastLayers,
    Lora,
    LoraOnly,
    RewardModel,
    Rope,
    Transformer,
    TransformerConfig,
)
from rljax.rlhf.pretrained import (
    load_for_training,
    load_language_model,
    load_reward_model,
    save_language_model,
    save_reward_model,
)
from rljax.rlhf.scoring import Scorer
from rljax.rlhf.training import (
    RewardConfig,
    RewardHyperparams,
    RewardTask,
    SFTConfig,
    SFTHyperparams,
    SFTTask,
    fine_tuning,
    reward_training,
    trained_params,
)

__all__ = [
    "ByteTokenizer", "Comparisons", "DirectConfig", "DirectHyperparams", "DirectTask",
    "EncodingConfig", "Everything", "Generator", "HeadOnly", "LastLayers", "Lora",
    "LoraOnly", "Pair", "RewardConfig", "RewardHyperparams", "RewardModel",
    "RewardTask", "Rope", "SFTConfig", "SFTHyperparams", "SFTTask", "Scorer",
    "TokenPair", "Transcript", "Transformer", "TransformerConfig", "Truncation",
    "direct_alignment", "encode_pair", "encoding_config", "evaluate_scores",
    "fine_tuning", "generate", "implicit_rewards", "load_for_training",
    "load_language_model", "load_reward_model", "load_tokenizer", "policy",
    "read_completions", "read_labelled", "read_preferences", "read_prompts",
    "read_ratings", "reward_training", "save_language_model", "save_reward_model",
    "selection", "tokenize_completions", "tokenize_labelled", "tokenize_rankings",
    "tokenize_ratings", "trained_params", "with_reference",
]  # fmt: skip
