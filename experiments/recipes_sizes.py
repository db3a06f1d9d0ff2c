"""The sizes of the recipes' trainings on a tiny model; numbers were chosen on seed 0."""

from word_problems import ANSWER_LENGTH, END

from rljax.rlhf import (
    DirectConfig,
    DirectHyperparams,
    RewardConfig,
    RewardHyperparams,
    SFTConfig,
    SFTHyperparams,
    policy,
)
from rljax.rlhf.recipes import Training


def sft(num_updates: int) -> Training:
    """Returns the sizes of a fine-tuning."""
    return Training(
        config=SFTConfig(batch_size=64),
        hyperparams=SFTHyperparams(
            learning_rate=1e-3, warmup_updates=3.0, decay_updates=num_updates
        ),
        num_updates=num_updates,
        improves="exact_match",
    )


def dpo(num_updates: int) -> Training:
    """Returns the sizes of DPO."""
    return Training(
        config=DirectConfig(batch_size=32),
        hyperparams=DirectHyperparams(
            learning_rate=5e-5, warmup_updates=5.0, decay_updates=num_updates, beta=0.3
        ),
        num_updates=num_updates,
        improves="judge",
    )


def reward(num_updates: int) -> Training:
    """Returns the sizes of reward training."""
    return Training(
        config=RewardConfig(batch_size=32),
        hyperparams=RewardHyperparams(
            learning_rate=5e-4, warmup_updates=5.0, decay_updates=num_updates
        ),
        num_updates=num_updates,
        improves="accuracy",
    )


def rl(
    recipe: policy.Recipe,
    num_updates: int,
    improves: str,
    *,
    learning_rate: float = 1.5e-4,
    beta: float = 0.04,
) -> Training:
    """Returns the sizes of a policy optimization."""
    config = policy.PolicyConfig(
        method=recipe.method,
        num_prompts=16,
        group_size=8,
        max_new_tokens=ANSWER_LENGTH,
        stop_ids=(END,),
        num_minibatches=2,
    )
    hyperparams = recipe.hyperparams.replace(
        learning_rate=learning_rate,
        warmup_updates=5.0,
        decay_updates=num_updates,
        beta=beta,
    )
    return Training(
        config=config, hyperparams=hyperparams, num_updates=num_updates,
        improves=improves,
    )  # fmt: skip
