"""Rewards that are pure functions of tokens: `(params, samples) -> [N]`.

`params` is the task's `reward`. Those that are made by a function, such as `model_reward`,
are made once for the same arguments, so that nothing compiles twice.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from rljax.numerics.sharding import split_rows
from rljax.rlhf.models.block import make_norm
from rljax.rlhf.models.reward_model import RewardModel
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.policy.samples import Samples, followed_by
from rljax.rlhf.scoring.ensembles import scores_and_members

Reward = Callable[[Any, Samples], jax.Array]


@functools.cache
def model_reward(module: RewardModel, rows_at_once: int | None = None) -> Reward:
    """Returns the reward of a reward model; `params` are the model's variables.

    It reads the policy's tokens: both have one tokenizer. Raises a ValueError for samples
    of tokens that it does not embed, or longer than its context.

    Args:
        module: the reward model.
        rows_at_once: rows that are scored together, to save memory; None scores all.
    """
    apply: Any = module.apply

    def reward(variables: Any, samples: Samples) -> jax.Array:
        _check_readable(module, samples)

        def score(ids, lengths):
            return apply(variables, ids, lengths)

        return _in_parts(score, samples, rows_at_once)

    return reward


class Ensemble(struct.PyTreeNode):
    """The members of an ensemble of reward models.

    Attributes:
        variables: of the members, stacked, as `stack_ensemble` returns them; what they
            share need not be.
        centres: `[M]`, each member's mean score on a reference set, which is subtracted:
            see `rljax.rlhf.evaluation.ensembles`.
        coef: weight of the standard deviation.
    """

    variables: Any
    centres: jax.Array
    coef: jax.Array | float = 1.0


@functools.cache
def ensemble_reward(
    module: RewardModel,
    combine: Literal["mean", "worst", "lower"],
    rows_at_once: int | None = None,
) -> Reward:
    """Returns the reward of an ensemble; `params` is an `Ensemble`.

    Args:
        module: the members' reward model.
        combine: the mean of the centred scores; the worst of them; or the mean less
            `coef` times their standard deviation.
        rows_at_once: as for `model_reward`.

    References:
        Coste et al. (2023), https://arxiv.org/abs/2310.02743, section 3.
    """
    if combine not in ("mean", "worst", "lower"):
        raise ValueError(f"combine must be mean, worst or lower, got {combine!r}.")

    def reward(params: Ensemble, samples: Samples) -> jax.Array:
        _check_readable(module, samples)
        num_members, score = scores_and_members(module, params.variables)
        if not num_members:
            raise ValueError(
                "an ensemble's variables must be stacked, got those of one model. Use "
                "stack_ensemble, or model_reward."
            )

        def members(ids, lengths):
            return score(params.variables, ids, lengths)[1]

        scores = _in_parts(members, samples, rows_at_once) - params.centres[None]
        if combine == "mean":
            return scores.mean(axis=1)
        if combine == "worst":
            return scores.min(axis=1)
        return scores.mean(axis=1) - params.coef * scores.std(axis=1)

    return reward


@functools.cache
def with_question(reward: Reward, question: tuple[int, ...]) -> Reward:
    """Returns a reward that reads tokens after each completion, such as a question.

    Args:
        reward: that of a reward model, or of an ensemble; `params` are what it reads.
        question: the tokens.
    """

    def asked(params: Any, samples: Samples) -> jax.Array:
        ids = followed_by(samples.ids, samples.lengths, question)
        return reward(
            params, samples.replace(ids=ids, lengths=samples.lengths + len(question))
        )

    return asked


class TrunkHeads(struct.PyTreeNode):
    """Linear heads on what the trunk that a policy shares has made of its completions.

    Attributes:
        norm: parameters of the norm that the heads' features come after, as a language
            model has them.
        kernels: `[M, D]`, of M heads.
        biases: `[M]`.
        coef: weight of the heads' standard deviation, which is subtracted from their mean.
    """

    norm: Any
    kernels: jax.Array
    biases: jax.Array
    coef: jax.Array | float = 0.0


@functools.cache
def trunk_reward(module: Transformer) -> Reward:
    """Returns the reward of heads on a policy's shared trunk; `params` are `TrunkHeads`.

    It costs no pass of its own: the states are `Samples.trunk_last`, at the end of
    `PolicyConfig.question`. Raises a ValueError for samples without them.

    Args:
        module: the policy, for its norm.
    """
    normalize: Any = make_norm(module.config).apply

    def reward(params: TrunkHeads, samples: Samples) -> jax.Array:
        if samples.trunk_last is None:
            raise ValueError(
                "trunk_reward needs blocks that the policy does not train, got none. Train "
                "LastLayers, with share_trunk."
            )
        features = normalize({"params": params.norm}, samples.trunk_last)
        # What a policy is trained on must not hang on how a product is rounded.
        scores = jnp.matmul(
            features, params.kernels.T, precision=jax.lax.Precision.HIGHEST
        )
        scores = scores + params.biases[None]
        return scores.mean(axis=1) - params.coef * scores.std(axis=1)

    return reward


class Targets(struct.PyTreeNode):
    """For each of M prompts the completion that is wanted.

    Attributes:
        ids: `[M, T]` int32, the stop token included, if one is wanted.
        lengths: `[M]` int32.
    """

    ids: jax.Array
    lengths: jax.Array


def equals_target(targets: Targets, samples: Samples) -> jax.Array:
    """Returns 1 where a completion is the wanted one, token by token, else 0."""
    same = _right_tokens(targets, samples) == targets.lengths[samples.prompt_index]
    as_long = samples.num_learned == targets.lengths[samples.prompt_index]
    return (same & as_long).astype(jnp.float32)


def share_of_target(targets: Targets, samples: Samples) -> jax.Array:
    """Returns the share of places, up to the longer one's end, that have the right token.

    Easier to learn from than `equals_target`, which gives most completions nothing.
    """
    wanted = targets.lengths[samples.prompt_index]
    longer = jnp.maximum(wanted, samples.num_learned)
    return _right_tokens(targets, samples) / jnp.maximum(longer, 1)


class Weighted(struct.PyTreeNode):
    """What several rewards read, and their weights.

    Attributes:
        params: of each reward.
        weights: of each reward.
    """

    params: tuple[Any, ...]
    weights: tuple[Any, ...]


@functools.cache
def weighted_sum(*rewards: Reward) -> Reward:
    """Returns the sum of rewards times their weights; `params` is a `Weighted`."""

    def reward(params: Weighted, samples: Samples) -> jax.Array:
        if not len(params.params) == len(params.weights) == len(rewards):
            raise ValueError(
                f"weighted_sum of {len(rewards)} rewards needs as many params and weights, "
                f"got {len(params.params)} and {len(params.weights)}."
            )
        parts = zip(rewards, params.params, params.weights, strict=True)
        total = jnp.zeros(samples.lengths.shape, jnp.float32)
        for of_tokens, params_of, weight in parts:
            total += weight * of_tokens(params_of, samples)
        return total

    return reward


class IfUnstopped(struct.PyTreeNode):
    """What a reward reads, and what takes its place.

    Attributes:
        params: of the reward.
        value: of a completion that did not stop.
    """

    params: Any
    value: Any


@functools.cache
def unless_stopped(reward: Reward) -> Reward:
    """Returns a reward with a fixed value for what did not stop; reads an `IfUnstopped`.

    References:
        The "EOS trick" of Huang et al. (2024), https://arxiv.org/abs/2403.17031.
    """

    def with_value(params: IfUnstopped, samples: Samples) -> jax.Array:
        found = reward(params.params, samples)
        return jnp.where(samples.stopped, found, params.value)

    return with_value


def _check_readable(module: RewardModel, samples: Samples) -> None:
    size, longest = module.config.vocab_size, module.config.max_length
    if samples.vocab_size is not None and samples.vocab_size > size:
        raise ValueError(
            f"a reward model must embed the policy's {samples.vocab_size:,} tokens, got "
            f"one that embeds {size:,}. Use a reward model of the same tokenizer, or score "
            f"texts with text_training."
        )
    if (length := samples.ids.shape[1]) > longest:
        raise ValueError(
            f"prompts and completions must fit the reward model's context of {longest:,} "
            f"tokens, got up to {length:,}. Shorten the prompts, or lower max_new_tokens."
        )


def _right_tokens(targets: Targets, samples: Samples) -> jax.Array:
    """Returns `[N]`, how many places have the wanted token."""
    width = min(targets.ids.shape[1], samples.log_probs.shape[1])
    index = samples.prompt_index
    wanted, got = targets.ids[index][:, :width], samples.completions[:, :width]
    within = jnp.arange(width)[None] < targets.lengths[index][:, None]
    within &= samples.mask[:, :width]
    return ((wanted == got) & within).sum(axis=1)


def _in_parts(score: Any, samples: Samples, rows_at_once: int | None) -> jax.Array:
    rows = samples.ids, samples.lengths
    if rows_at_once is None:
        return score(*rows)

    def of_row(row):
        return score(*(x[None] for x in row))[0]

    def of_part(part):
        return jax.vmap(of_row)(split_rows(part))

    if len(samples.lengths) % rows_at_once:
        return jax.lax.map(of_row, rows, batch_size=rows_at_once)
    # The same, but that devices share each part's rows.
    parts = jax.tree.map(lambda x: x.reshape(-1, rows_at_once, *x.shape[1:]), rows)
    found = jax.lax.map(of_part, parts)
    return found.reshape(-1, *found.shape[2:])
