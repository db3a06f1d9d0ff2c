"""Rewards: of tokens, within the compiled program, or of texts, on the host between two.

May import what `rljax.rlhf.policy` may.
"""

from rljax.rlhf.policy.rewards.text_rewards import (
    TextReward,
    arithmetic,
    exact_match,
    matches,
    weighted_texts,
)
from rljax.rlhf.policy.rewards.token_rewards import (
    Ensemble,
    IfUnstopped,
    Reward,
    Targets,
    TrunkHeads,
    Weighted,
    ensemble_reward,
    equals_target,
    model_reward,
    share_of_target,
    trunk_reward,
    unless_stopped,
    weighted_sum,
    with_question,
)

__all__ = [
    "Ensemble", "IfUnstopped", "Reward", "Targets", "TextReward", "TrunkHeads",
    "Weighted",
    "arithmetic", "ensemble_reward", "equals_target", "exact_match", "matches",
    "model_reward", "share_of_target", "trunk_reward", "unless_stopped",
    "weighted_sum", "weighted_texts", "with_question",
]  # fmt: skip
