"""What a critic expects of a completion before each of its tokens."""

from typing import Any

import jax
import jax.numpy as jnp

from rljax.base import Params
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.policy.forward import at_completions
from rljax.rlhf.policy.settings import Critic


def start_critic(kind: Critic, module: Transformer, params: Params) -> Params:
    """Returns a critic's parameters before the first update, when it expects 0; {} without.

    Args:
        kind: as `PolicyMethod.critic`.
        module: the policy.
        params: its parameters, which a separate critic starts from.
    """
    if kind == "none":
        return {}
    width, wide = module.config.hidden_size, module.config.wide_dtype
    head = {"kernel": jnp.zeros((width, 1), wide), "bias": jnp.zeros(1, wide)}
    if kind != "separate":
        return {"head": head}
    # Copies: a state must not share memory with the task, which outlives it.
    return {"head": head, "trunk": jax.tree.map(jnp.copy, params)}


def token_values(
    kind: Critic, module: Transformer, critic: Params, hidden: jax.Array, rows: Any
) -> jax.Array:
    """Returns values `[n, T]` of the states in which completions' tokens are chosen.

    Args:
        kind: as `PolicyMethod.critic`.
        module: the policy's, plain.
        critic: parameters of `start_critic`.
        hidden: `[n, T + 1, D]`, the policy's, as in `Completed`.
        rows: what they are of; a separate critic reads it.
    """
    if kind == "separate":
        apply: Any = module.apply
        hidden = at_completions(apply({"params": critic["trunk"]}, rows.ids), rows)
    elif kind == "head":
        hidden = jax.lax.stop_gradient(hidden)
    head = critic["head"]
    values = hidden[:, :-1].astype(head["kernel"].dtype) @ head["kernel"]
    return values[..., 0] + head["bias"][0]
