"""Losses of direct alignment: elementwise, at least float32; the caller adds them up.

`ranking_losses` and `label_losses` are the choice between them. With implicit rewards
r = beta (log pi(y | x) - log pi_ref(y | x)) of completions and h = r_chosen - r_rejected,
DPO's loss is the Bradley-Terry loss of r (`losses`), and that of rankings the Plackett-Luce
loss: Rafailov et al. (2023), https://arxiv.org/abs/2305.18290, equations 7 and 20. The
others are here.

Labels may be soft or wrong: where p is the probability that the chosen one is preferred,
a loss is p f(h) + (1 - p) f(-h).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from rljax.base import Mean
from rljax.rlhf.data.rows import LabelledCompletions, Rankings, num_learned
from rljax.rlhf.direct.reference import reference_of
from rljax.rlhf.training.losses import (
    bradley_terry_loss,
    preference_loss,
    smoothed_probs,
)

Number = jax.Array | float
DirectLoss = Literal[
    "dpo", "robust_dpo", "hinge", "ipo_sum", "ipo_mean", "simpo", "orpo", "kto"
]
WITHOUT_REFERENCE = ("simpo", "orpo")
WITHOUT_MARGINS = ("ipo_sum", "ipo_mean", "orpo")


def ranking_losses(
    loss: DirectLoss, log_probs: jax.Array, rows: Rankings, hyperparams: Any
) -> tuple[jax.Array, dict[str, Mean]]:
    """Returns the losses `[B]` of pairs or rankings, and means over them for metrics.

    Args:
        loss: any but that of labels.
        log_probs: `[B, K]`, log pi of the completions.
        rows: with the reference, for those losses that have one.
        hyperparams: `DirectHyperparams`.
    """
    starts: Any = rows.starts
    beta, margins = hyperparams.beta, rows.margins
    probs = smoothed_probs(rows.probs, hyperparams.label_smoothing)
    ratios = log_probs
    if loss not in WITHOUT_REFERENCE:
        ratios = ratios - reference_of(rows)
    if loss in ("simpo", "orpo", "ipo_mean"):
        ratios = ratios / jnp.maximum(num_learned(starts, rows.lengths), 1)
    rewards = beta * ratios
    if loss == "dpo":
        losses = preference_loss(rewards, rows.lengths > 0, margins, probs)
    elif loss == "robust_dpo":
        probs = robust_probs(rows.probs, hyperparams.label_smoothing)
        losses = bradley_terry_loss(rewards, margins, probs)
    elif loss == "simpo":
        losses = bradley_terry_loss(rewards, margins + hyperparams.gamma, probs)
    elif loss == "hinge":
        losses = hinge_loss(rewards, margins, probs)
    elif loss == "orpo":
        losses = orpo_loss(ratios, beta, probs)
    else:
        losses = ipo_loss(ratios, beta, probs)
    margin = rewards[:, 0] - rewards[:, 1]
    values = {
        "accuracy": 0.5 * (1 + jnp.sign(margin)),
        "margin": margin,
        "chosen_reward": rewards[:, 0],
        "rejected_reward": rewards[:, 1],
        "chosen_log_prob": log_probs[:, 0],
        "rejected_log_prob": log_probs[:, 1],
    }
    return losses, {name: Mean.of(value) for name, value in values.items()}


def label_losses(
    log_probs: jax.Array, rows: LabelledCompletions, hyperparams: Any, kl: jax.Array
) -> tuple[jax.Array, dict[str, Mean]]:
    """Returns the losses `[B]` of labelled completions, and means over them for metrics.

    Args:
        log_probs: `[B]`, log pi of the completions.
        rows: with the reference.
        hyperparams: `DirectHyperparams`.
        kl: the policy's distance to the reference.
    """
    labels, ratios = rows.labels, log_probs - reference_of(rows)[:, 0]
    losses = kto_loss(
        ratios,
        labels,
        kl,
        beta=hyperparams.beta,
        desirable_weight=hyperparams.desirable_weight,
        undesirable_weight=hyperparams.undesirable_weight,
    )
    right = jnp.where(labels, 1.0, -1.0) * jnp.sign(ratios - kl)
    means = {"accuracy": Mean.of(0.5 * (1 + right))}
    for name, which in (("chosen", labels), ("rejected", ~labels)):
        for kind, x in (("reward", hyperparams.beta * ratios), ("log_prob", log_probs)):
            total = jnp.where(which, x, 0.0).sum()
            means[f"{name}_{kind}"] = Mean(total, which.sum())
    return losses, means


def robust_probs(probs: Number, label_smoothing: Number) -> Number:
    """Returns what to take for the probability so that flipped labels change no gradient.

    (p - e) / (1 - 2 e), below 0 or above 1 for sure labels: the mean of the loss over
    labels of which a share e < 1/2 is flipped is the loss without such flips.

    References:
        Chowdhury et al. (2024), https://arxiv.org/abs/2403.00409.
    """
    return (probs - label_smoothing) / (1 - 2 * label_smoothing)


def hinge_loss(
    rewards: jax.Array, margins: Number = 0.0, probs: Number = 1.0
) -> jax.Array:
    """Returns `[B]` max(0, 1 - (h - margin)) of implicit rewards `[B, 2]`.

    References:
        Zhao et al. (2023), SLiC-HF, https://arxiv.org/abs/2305.10425; on implicit rewards,
        Liu et al. (2024), https://arxiv.org/abs/2309.06657.

    Example:
        >>> hinge_loss(jnp.array([[0.0, 0.0], [1.0, -1.0]])).tolist()
        [1.0, 0.0]
    """
    difference = rewards[..., 0] - rewards[..., 1] - margins
    flipped = jax.nn.relu(1 + difference)
    return probs * jax.nn.relu(1 - difference) + (1 - probs) * flipped


def ipo_loss(log_ratios: jax.Array, beta: Number, probs: Number = 1.0) -> jax.Array:
    """Returns `[B]` (h / beta - 1 / (2 beta))^2 of log ratios `[B, 2]`.

    Args:
        log_ratios: log pi - log pi_ref of the chosen completion and the rejected one:
            sums over tokens, as the paper has it, or means, as its authors computed it.
        beta: the strength of the regularization, tau in the paper.
        probs: `[B]`, the probability that the chosen one is preferred.

    References:
        Azar et al. (2023), https://arxiv.org/abs/2310.12036, equation 17.

    Example:
        >>> ipo_loss(jnp.array([[0.0, 0.0], [3.0, -2.0]]), 0.1).tolist()
        [25.0, 0.0]
    """
    difference, wanted = log_ratios[..., 0] - log_ratios[..., 1], 1 / (2 * beta)
    flipped = (difference + wanted) ** 2
    return probs * (difference - wanted) ** 2 + (1 - probs) * flipped


def orpo_loss(
    mean_log_probs: jax.Array, weight: Number, probs: Number = 1.0
) -> jax.Array:
    """Returns `[B]` -m_chosen - weight log sigma(log odds_chosen - log odds_rejected).

    Args:
        mean_log_probs: `[B, 2]`, m, the mean log-probabilities of completions' tokens;
            the odds are exp m / (1 - exp m).
        weight: of the second term, lambda in the paper.
        probs: `[B]`, the probability that the chosen one is preferred.

    References:
        Hong et al. (2024), https://arxiv.org/abs/2403.07691, equation 6.
    """
    # Of a completion that is certain, the odds would be infinite.
    means = jnp.minimum(mean_log_probs, -1e-6)
    log_odds = means - jnp.log(-jnp.expm1(means))
    loss = bradley_terry_loss(log_odds, probs=probs)
    learned = probs * mean_log_probs[..., 0] + (1 - probs) * mean_log_probs[..., 1]
    return weight * loss - learned


def kto_loss(
    log_ratios: jax.Array,
    labels: jax.Array,
    kl: Number,
    *,
    beta: Number,
    desirable_weight: Number = 1.0,
    undesirable_weight: Number = 1.0,
) -> jax.Array:
    """Returns `[B]` lambda (1 - sigma(beta v)), v = +-(log ratio - kl).

    With + and the first weight for desirable completions, with - and the second for others.

    Args:
        log_ratios: `[B]`, log pi - log pi_ref of completions.
        labels: `[B]` bool, which are desirable.
        kl: the policy's distance to the reference, at least 0; no gradient flows here.
        beta: the strength of the regularization.
        desirable_weight: lambda_D.
        undesirable_weight: lambda_U.

    References:
        Ethayarajh et al. (2024), https://arxiv.org/abs/2402.01306, equation 7.

    Example:
        >>> kto_loss(jnp.zeros(2), jnp.array([True, False]), 0.0, beta=0.1).tolist()
        [0.5, 0.5]
    """
    value = beta * (log_ratios - jax.lax.stop_gradient(kl))
    weights = jnp.where(labels, desirable_weight, undesirable_weight)
    return weights * jax.nn.sigmoid(jnp.where(labels, -value, value))
