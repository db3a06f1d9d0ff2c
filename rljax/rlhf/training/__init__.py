"""Learners from rows of text: fine-tuning and reward training, and what learners share.

`fine_tuning` and `reward_training` are algorithms. May import `rljax.rlhf.data`, `models`,
`pretrained` and `scoring`.
"""

from rljax.rlhf.training.microbatches import usual_lengths
from rljax.rlhf.training.reward import (
    RewardConfig,
    RewardHyperparams,
    RewardTask,
    reward_training,
)
from rljax.rlhf.training.score_rows import score_rows
from rljax.rlhf.training.sft import (
    SFTConfig,
    SFTHyperparams,
    SFTTask,
    fine_tuning,
)
from rljax.rlhf.training.start import fixed_only, trained_params
from rljax.rlhf.training.update import TrainingState

__all__ = [
    "RewardConfig", "RewardHyperparams", "RewardTask", "SFTConfig", "SFTHyperparams",
    "SFTTask", "TrainingState", "fine_tuning", "fixed_only", "reward_training",
    "score_rows", "trained_params", "usual_lengths",
]  # fmt: skip
