"""The usual methods, each as its choices and its numbers.

    method, hyperparams = grpo()
    config = PolicyConfig(method=method, num_prompts=8, group_size=8)

Defaults are those of the papers, or of TRL 1.16 where that says so; learning rates are
left at `PolicyHyperparams`' default: they depend on the model. So are the sizes, among them
`num_epochs` and `num_minibatches`: with one of each, all ratios are 1 and nothing is
clipped.
"""

import math
from typing import NamedTuple

from rljax.rlhf.policy.settings import PolicyHyperparams, PolicyMethod


class Recipe(NamedTuple):
    """A method and its numbers."""

    method: PolicyMethod
    hyperparams: PolicyHyperparams


def reinforce() -> Recipe:
    """Returns REINFORCE: the plain policy gradient, with the batch's mean for a baseline.

    Williams (1992), "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning".
    """
    return Recipe(PolicyMethod(baseline="batch"), PolicyHyperparams())


def rloo() -> Recipe:
    """Returns RLOO: a group's other completions are the baseline; clipped by sequence.

    Ahmadian et al. (2024), https://arxiv.org/abs/2402.14740; clip and beta as TRL 1.16.
    """
    method = PolicyMethod(
        baseline="leave_one_out", ratio="sequence_sum", aggregation="sequences"
    )
    return Recipe(method, PolicyHyperparams(beta=0.05))


def grpo() -> Recipe:
    """Returns GRPO: advantages are standardized in groups, k3 is in the loss.

    Shao et al. (2024), https://arxiv.org/abs/2402.03300, with beta = 0.04. k3 is
    multiplied by the importance ratio, as in TRL 1.16.
    """
    method = PolicyMethod(
        kl="loss", kl_estimator="k3", baseline="group", scale="group",
        ratio="token", aggregation="sequences",
    )  # fmt: skip
    return Recipe(method, PolicyHyperparams(beta=0.04))


def dr_grpo() -> Recipe:
    """Returns Dr. GRPO: without the deviation and the length, which bias it; no reference.

    Liu et al. (2025), https://arxiv.org/abs/2503.20783.
    """
    method = PolicyMethod(
        kl="none", baseline="group", ratio="token", aggregation="constant"
    )
    return Recipe(method, PolicyHyperparams(beta=0.0))


def dapo() -> Recipe:
    """Returns DAPO: a higher upper clip, all tokens alike; no reference.

    The penalty is 0: set `length_penalty` and `length_buffer`, in the paper 1 and a fifth
    of T. Groups of equal rewards are left out; others are not drawn in their place. Yu et
    al. (2025), https://arxiv.org/abs/2503.14476.
    """
    method = PolicyMethod(
        kl="none", baseline="group", scale="group", ratio="token",
        aggregation="tokens", learn_equal_groups=False,
    )  # fmt: skip
    numbers = PolicyHyperparams(beta=0.0, clip_low=0.2, clip_high=0.28)
    return Recipe(method, numbers)


def bnpo() -> Recipe:
    """Returns BNPO as TRL 1.16 has it: GRPO, with the mean over all tokens of the batch.

    A microbatch is divided by the whole minibatch's number of tokens, unlike there.
    https://huggingface.co/docs/trl/main/en/grpo_trainer
    """
    method = PolicyMethod(
        kl="none", baseline="group", scale="group", ratio="token", aggregation="tokens"
    )
    return Recipe(method, PolicyHyperparams(beta=0.0))


def gspo() -> Recipe:
    """Returns GSPO: ratios of sequences, their tokens' geometric mean, tightly clipped.

    Zheng et al. (2025), https://arxiv.org/abs/2507.18071, section 5.1.
    """
    method = PolicyMethod(
        kl="none", baseline="group", scale="group", ratio="sequence_mean",
        aggregation="sequences",
    )  # fmt: skip
    numbers = PolicyHyperparams(beta=0.0, clip_low=3e-4, clip_high=4e-4)
    return Recipe(method, numbers)


def cispo() -> Recipe:
    """Returns CISPO: truncated importance weights, so that no token loses its gradient.

    MiniMax (2025), https://arxiv.org/abs/2506.13585; the bound as TRL 1.16 recommends it.
    """
    method = PolicyMethod(
        kl="none", baseline="group", scale="group", ratio="token", clip="truncated",
        aggregation="tokens",
    )  # fmt: skip
    return Recipe(method, PolicyHyperparams(beta=0.0, ratio_max=5.0))


def ppo() -> Recipe:
    """Returns PPO with a separate critic, whitened advantages, and beta that adapts.

    Usual with `num_epochs=4`. Ziegler et al. (2019), https://arxiv.org/abs/1909.08593;
    whitening and clipped values as Huang et al. (2024), https://arxiv.org/abs/2403.17031,
    whose reward of completions without an end is `rewards.unless_stopped`.
    """
    method = PolicyMethod(
        ratio="token", whiten=True, critic="separate", aggregation="tokens"
    )
    numbers = PolicyHyperparams(
        beta=0.15, kl_target=6.0, gae_lambda=0.95, vf_coef=0.1, vf_clip_eps=0.2,
        critic_learning_rate=1e-5, max_grad_norm=math.inf,
    )  # fmt: skip
    return Recipe(method, numbers)
