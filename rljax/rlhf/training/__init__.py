"""Learners of RLHF: fine-tuning, reward training and direct alignment, algorithms.

Beside them, heads on frozen features.

May import `rljax.rlhf.data`, `models`, `pretrained` and `scoring`.
"""

from rljax.rlhf.training.direct import (
    DirectConfig,
    DirectHyperparams,
    DirectTask,
    direct_alignment,
)
from rljax.rlhf.training.features import different_texts, frozen_features
from rljax.rlhf.training.heads import (
    Head,
    HeadHyperparams,
    JudgedTexts,
    RatedTexts,
    fit_heads,
    head_scores,
    prepare,
    with_heads,
)
from rljax.rlhf.training.microbatches import usual_lengths
from rljax.rlhf.training.reference import implicit_rewards, with_reference
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
    "DirectConfig",
    "DirectHyperparams",
    "DirectTask",
    "Head",
    "HeadHyperparams",
    "JudgedTexts",
    "RatedTexts",
    "RewardConfig",
    "RewardHyperparams",
    "RewardTask",
    "SFTConfig",
    "SFTHyperparams",
    "SFTTask",
    "TrainingState",
    "different_texts",
    "direct_alignment",
    "fine_tuning",
    "fit_heads",
    "fixed_only",
    "frozen_features",
    "head_scores",
    "implicit_rewards",
    "prepare",
    "reward_training",
    "score_rows",
    "trained_params",
    "usual_lengths",
    "with_heads",
    "with_reference",
]  # fmt: skip
