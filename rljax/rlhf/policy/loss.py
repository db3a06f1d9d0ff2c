"""The loss of some completions, from what the models have computed of them."""

import jax
import jax.numpy as jnp

from rljax.algorithms.loss_terms import clipped_value_loss
from rljax.rlhf.policy.experience import Experience
from rljax.rlhf.policy.forward import Completed
from rljax.rlhf.policy.kl import estimate_kl, exact_kl
from rljax.rlhf.policy.policy_losses import (
    MAX_LOG_RATIO,
    is_clipped,
    log_ratios,
    policy_losses,
)
from rljax.rlhf.policy.settings import PolicyHyperparams, PolicyMethod


def loss_of_rows(
    method: PolicyMethod,
    rows: Experience,
    policy: Completed,
    reference: Completed | None,
    values: jax.Array | None,
    hyperparams: PolicyHyperparams,
    beta: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of n rows, a sum with their weights, and further numbers of them.

    Those are sums, apart from `deviation` `[n]`: of each row, how far a ratio is from 1.

    Args:
        method: which terms there are.
        rows: with weights.
        policy: of the policy being learned.
        reference: of the reference, where the exact divergence is in the loss.
        values: `[n, T]`, of the critic; None without one.
        hyperparams: temperature, clips, weights of terms.
        beta: weight of the divergence.
    """
    samples, mask = rows.samples, rows.samples.mask
    weights = jnp.where(mask, rows.weights[:, None], 0.0)
    log_probs = policy.log_probs(hyperparams.temperature)
    log_probs = jnp.where(mask, log_probs, samples.log_probs)
    log_ratio = log_ratios(log_probs, samples.log_probs, mask, method.ratio)
    bounds = {
        "clip_low": hyperparams.clip_low,
        "clip_high": hyperparams.clip_high,
        "ratio_max": hyperparams.ratio_max,
    }
    losses = policy_losses(
        log_probs, log_ratio, rows.advantages, ratio=method.ratio, clip=method.clip,
        **bounds,
    )  # fmt: skip
    total = policy_loss = (weights * losses).sum()
    sums = {"policy_loss": policy_loss}
    if method.kl in ("loss", "whole"):
        if reference is not None:
            logits = policy.logits[:, :-1], reference.logits[:, :-1]
            divergence = exact_kl(*logits, hyperparams.temperature)
        else:
            divergence = estimate_kl(
                log_probs - samples.reference_log_probs, method.kl_estimator
            )
            if method.kl_estimator == "k3":  # whatever ratio the policy's loss has
                of_tokens = log_ratios(log_probs, samples.log_probs, mask, "token")
                bounded = jnp.clip(of_tokens, -MAX_LOG_RATIO, MAX_LOG_RATIO)
                divergence = divergence * jnp.exp(bounded)
        total += beta * jnp.where(mask, weights * divergence, 0.0).sum()
    if values is not None:
        value_losses = clipped_value_loss(
            values, samples.values, rows.targets, clip_eps=hyperparams.vf_clip_eps
        )
        weights = jnp.where(mask, rows.value_weights[:, None], 0.0)
        sums["value_loss"] = (weights * value_losses).sum()
        total += hyperparams.vf_coef * sums["value_loss"]
    clipped = is_clipped(
        log_ratio, rows.advantages, ratio=method.ratio, clip=method.clip, **bounds
    )
    sums["loss"] = total
    sums["clipped"] = (clipped & mask).sum().astype(jnp.float32)
    sums["deviation"] = jnp.abs(jnp.expm1(log_ratio)).max(axis=1)
    return total, sums
