"""What fixes a policy optimization: the method, the sizes, and the numbers."""

import dataclasses
import math
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.numerics.validation import (
    check_at_least,
    check_positive_integers,
    check_ranges,
)
from rljax.rlhf.models.trainable import Everything, HeadOnly, LastLayers, Trainable
from rljax.rlhf.policy.advantages import Baseline, Scale
from rljax.rlhf.policy.kl import Estimator
from rljax.rlhf.policy.policy_losses import Aggregation, Clip, Ratio
from rljax.rlhf.training.optimizer import check_optimizer

KLUse = Literal["none", "reward", "loss", "whole"]
Critic = Literal["none", "head", "shared", "separate"]

ESTIMATORS = {"reward": ("k1",), "loss": ("k2", "k3", "exact"), "whole": ("exact",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyMethod:
    """The choices that make GRPO, RLOO, PPO and so on of one algorithm. Static.

    `rljax.rlhf.policy.recipes` has the usual ones. By default it is REINFORCE with the
    divergence in the reward.

    Raises:
        ValueError: two choices do not go together.
    """

    kl: KLUse = "reward"
    """Where the divergence from the reference is: in the reward; in the loss, token by
    token; in the loss with the whole of its gradient, that through later tokens, too; or
    nowhere, and then there is no reference. See `rljax.rlhf.policy.kl`."""
    kl_estimator: Estimator = "k1"
    """k1 as a reward; k2, k3 or exact as a loss; exact for the whole."""
    baseline: Baseline = "none"
    """What is subtracted from a completion's reward. Unused with a critic."""
    scale: Scale = "none"
    """Whose standard deviation of rewards divides. Unused with a critic."""
    whiten: bool = False
    """Shift and scale all advantages of an update to mean 0 and variance 1."""
    ratio: Ratio = "none"
    """Of what an importance ratio is taken; none is the plain policy gradient."""
    clip: Clip = "two_sided"
    """How a ratio is bounded."""
    aggregation: Aggregation = "sums"
    """How the losses of tokens become one."""
    critic: Critic = "none"
    """What estimates values: nothing; a linear head that reads the policy's hidden states
    and leaves them alone; one whose loss trains them too (shared); or another model, which
    starts as the policy's copy (separate)."""
    learn_unstopped: bool = True
    """Whether completions that did not stop are learned from."""
    learn_equal_groups: bool = True
    """Whether groups of equal scores, whose advantages are 0, count in the loss's mean. If
    not, the loss is that of the other groups alone, and so is a divergence in it."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, allowed = getattr(self, field.name), _choices(field.type)
            if allowed and value not in allowed:
                raise ValueError(
                    f"{field.name} must be one of {', '.join(allowed)}, got {value!r}."
                )
        allowed = ESTIMATORS.get(self.kl, (self.kl_estimator,))
        if self.kl_estimator not in allowed:
            raise ValueError(
                f"kl={self.kl!r} needs kl_estimator {' or '.join(allowed)}, got "
                f"{self.kl_estimator!r}: its gradient would not be the divergence's."
            )
        by_group = self.critic == "none" and self.baseline in ("group", "leave_one_out")
        if not self.learn_equal_groups and not by_group:
            raise ValueError(
                f"learn_equal_groups=False needs a group's baseline and no critic, got "
                f"baseline={self.baseline!r} and critic={self.critic!r}, with which equal "
                f"rewards teach something. Use baseline='group' or 'leave_one_out'."
            )
        by_sequence = self.ratio in ("sequence_mean", "sequence_sum")
        if self.kl == "whole" and by_sequence:
            raise ValueError(
                f"kl='whole' has an advantage for each token, which ratio={self.ratio!r} "
                f"would mix up. Use ratio='token' or 'none', or kl='reward'."
            )
        if self.kl == "whole" and self.whiten and self.critic != "none":
            raise ValueError(
                "kl='whole' must not be scaled in part, as whiten=True with a critic would. "
                "Use kl='reward', or whiten=False."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Everything that fixes an array's shape or the program's structure. Static.

    An update samples N = num_prompts * group_size completions and takes
    num_epochs * num_minibatches gradient steps.

    Raises:
        ValueError: a size is not positive, the batch cannot be cut into minibatches and
            microbatches, or the method needs more completions.
    """

    method: PolicyMethod = dataclasses.field(default_factory=PolicyMethod)
    """What is done with the rewards."""
    num_prompts: int = 8
    """Prompts of an update."""
    group_size: int = 8
    """Completions of each."""
    max_new_tokens: int = 64
    """T, the most tokens of a completion."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end a completion, which they belong to."""
    num_epochs: int = 1
    """Passes over an update's completions."""
    num_minibatches: int = 1
    """Gradient steps in a pass."""
    num_microbatches: int = 1
    """Parts of a minibatch that are computed one after another, with less memory."""
    lengths: tuple[int, ...] = ()
    """Tokens that a microbatch may be cut to, each a program; () compiles one."""
    trainable: Trainable = dataclasses.field(default_factory=Everything)
    """What of the policy is trained."""
    share_trunk: bool = True
    """Whether blocks that are not trained, of `LastLayers`, are computed once an update for
    policy, reference and reward, and their states `[N, L, D]` kept for all its passes."""
    question: tuple[int, ...] = ()
    """Tokens to put after each completion, at whose end `rewards.trunk_reward` reads the
    shared trunk; () reads it at the completion's end."""

    def __post_init__(self):
        check_positive_integers(
            self, "num_prompts", "group_size", "max_new_tokens", "num_epochs",
            "num_minibatches", "num_microbatches",
        )  # fmt: skip
        for name in ("stop_ids", "question"):
            ids = getattr(self, name)
            of_ids = isinstance(ids, tuple) and all(
                isinstance(token, int | np.integer) for token in ids
            )
            if not of_ids:
                raise ValueError(
                    f"{name} must be a tuple of token ids, got {ids!r}. Write (0,), say."
                )
        if self.question and not self.shares_trunk:
            raise ValueError(
                f"question needs a trunk that policy and reward share, got "
                f"trainable={self.trainable} and share_trunk={self.share_trunk}. Choose "
                f"LastLayers, or leave the question to another reward."
            )
        parts = self.num_minibatches * self.num_microbatches
        if self.num_samples % parts:
            raise ValueError(
                f"num_minibatches * num_microbatches must divide num_prompts * group_size, "
                f"got {self.num_minibatches} * {self.num_microbatches} and "
                f"{self.num_prompts} * {self.group_size}. Choose divisors."
            )
        if isinstance(self.trainable, HeadOnly):
            raise ValueError(
                "trainable must be a part of the policy, got HeadOnly, which has none. Choose "
                "LastLayers, LoraOnly or Everything."
            )
        method = self.method
        by_group = method.baseline in ("group", "leave_one_out")
        needs_two = by_group or method.scale == "group"
        if method.critic == "none" and needs_two and self.group_size < 2:
            raise ValueError(
                f"group_size must be at least 2 for baseline={method.baseline!r} and "
                f"scale={method.scale!r}, got 1. Raise it, or choose others."
            )
        of_batch = "batch" in (method.baseline, method.scale)
        if (method.whiten or of_batch) and self.num_samples < 2:
            raise ValueError(
                "num_prompts * group_size must be at least 2 where advantages are compared "
                "within the batch, got 1. Raise either."
            )

    @property
    def shares_trunk(self) -> bool:
        """Whether there is a trunk that policy and reference share, computed once."""
        return self.share_trunk and isinstance(self.trainable, LastLayers)

    @property
    def num_samples(self) -> int:
        """N, completions of an update."""
        return self.num_prompts * self.group_size

    @property
    def batch_size(self) -> int:
        """Completions of an update."""
        return self.num_samples

    @property
    def microbatch_size(self) -> int:
        """Completions that are computed together, which devices share."""
        return self.num_samples // (self.num_minibatches * self.num_microbatches)

    def updates(self, total_steps: int) -> int:
        """The largest number of updates within a budget of completions.

        It makes policy optimization a problem that can be swept, by any number of a run's
        state, such as the mean reward of other prompts:

            def algorithm(module, config):
                return policy_optimization(module, config, reward).algorithm

            problem = rljax.sweeps.Problem(
                algorithm=algorithm,
                evaluate=evaluate,  # (module, state, task, key) -> scalar
                network=module,
                config=config,
                hyperparams=PolicyHyperparams(learning_rate=1e-4),
                task=PolicyTask(prompts, prompt_lengths, params, reward_params),
                total_steps=100 * config.batch_size,
                check=check_hyperparams,
            )
            done = sweep(problem, grid(beta=[0.01, 0.1]), num_seeds=4)

        Raises:
            ValueError: the budget does not pay for one update.
        """
        check_at_least(self.batch_size, total_steps=total_steps)
        return total_steps // self.batch_size


class PolicyHyperparams(struct.PyTreeNode):
    """Everything that may be traced: sweep any of these with `jax.vmap`."""

    learning_rate: float = 1e-5
    """AdamW's step size after the warm-up."""
    warmup_updates: float = 0.0
    """Updates over which it rises linearly."""
    decay_updates: float = math.inf
    """Updates after which, falling as half a cosine, it is 0; inf: constant."""
    weight_decay: float = 0.0
    """Of matrices, apart from the gradient."""
    max_grad_norm: float = 1.0
    """Bound on the global norm of the gradient."""
    temperature: float = 1.0
    """Logits are divided by it, in sampling and in every log-probability."""
    beta: float = 0.05
    """Weight of the divergence from the reference, in the unit of the reward; where the
    divergence is in the loss and `scale` divides rewards, of their standard deviation."""
    kl_target: float = math.inf
    """Divergence of a completion, in nats, towards which beta is moved; inf: it is not."""
    kl_horizon: float = 10_000.0
    """Completions over which beta is moved by up to a fifth."""
    clip_low: float = 0.2
    """How far a probability ratio may fall below 1."""
    clip_high: float = 0.2
    """How far it may rise above 1."""
    ratio_max: float = math.inf
    """Its largest value, as such."""
    stop_penalty: float = 0.0
    """Subtracted from the reward of a completion that did not stop."""
    length_penalty: float = 0.0
    """Subtracted from the reward of one of T tokens, and a share of it from that of one
    longer than T - length_buffer."""
    length_buffer: float = 0.0
    """Tokens before T over which the length penalty rises."""
    gae_lambda: float = 0.95
    """Trace decay of the advantages that are estimated with a critic."""
    vf_coef: float = 0.1
    """Weight of the value loss, which is half the squared error."""
    vf_clip_eps: float = math.inf
    """How far a value may move from what it was; by default there is no bound."""
    critic_learning_rate: float = 1e-3
    """Step size of the critic's parameters, with the policy's warm-up and decay; for a
    separate critic, a whole model, rather that of the policy."""


def check_hyperparams(hyperparams: PolicyHyperparams) -> None:
    """Raises a ValueError for a value out of its range; values may be arrays."""
    largest = float(jnp.finfo(jnp.float32).max)
    check_optimizer(
        hyperparams,
        beta=(0.0, largest),
        clip_low=(0.0, math.inf),
        clip_high=(0.0, math.inf),
        ratio_max=(1.0, math.inf),
        stop_penalty=(0.0, largest),
        length_penalty=(0.0, largest),
        length_buffer=(0.0, largest),
        gae_lambda=(0.0, 1.0),
        vf_coef=(0.0, largest),
        vf_clip_eps=(0.0, math.inf),
        critic_learning_rate=(0.0, largest),
    )
    check_ranges(hyperparams, {"kl_target": (1e-6, math.inf)})
    check_ranges(hyperparams, {}, positive=("temperature", "kl_horizon"))


def _choices(annotation: Any) -> tuple[str, ...]:
    """Returns what a `Literal` allows; () of another annotation."""
    return getattr(annotation, "__args__", ())
