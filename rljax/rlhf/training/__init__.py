"""Learners of RLHF, each an `Algorithm`: supervised fine-tuning, and reward training.

May import `rljax.rlhf.data`, `models`, `pretrained` and `scoring`.
"""

from rljax.rlhf.training.microbatches import usual_lengths
from rljax.rlhf.training.reward import (
    RewardConfig,
    RewardHyperparams,
    RewardState,
    RewardTask,
    reward_training,
)
from rljax.rlhf.training.score_rows import score_rows
from rljax.rlhf.training.sft import (
    SFTConfig,
    SFTHyperparams,
    SFTState,
    SFTTask,
    fine_tuning,
)
from rljax.rlhf.training.start import fixed_only, trained_params

__all__ = [
    "RewardConfig", "RewardHyperparams", "RewardState", "RewardTask", "SFTConfig",
    "SFTHyperparams", "SFTState", "SFTTask", "fine_tuning", "fixed_only", "reward_training", "score_rows",
    "trained_params", "usual_lengths",
]  # fmt: skip
