"""Prompts with the reward of their completions: what is sampled for, and learned from."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.base import Params
from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.policy.held_out import sample_held_out
from rljax.rlhf.policy.rewards import Reward
from rljax.rlhf.policy.samples import Samples


@dataclasses.dataclass(frozen=True)
class RewardedPrompts:
    """M prompts, and what a completion of each is worth.

    Attributes:
        ids: `[M, P]` int32, padded on the left.
        lengths: `[M]` int32, at least 1.
        reward: of tokens, `(params, samples) -> [N]`, where `samples.prompt_index` tells
            the prompt.
        params: what the reward reads.
    """

    ids: Any
    lengths: Any
    reward: Reward
    params: Any

    def scores(self, samples: Samples) -> np.ndarray:
        """Returns the rewards `[N]` of completions of these prompts."""
        return np.asarray(_jitted(self.reward)(self.params, samples))


def sample_each(
    module: Transformer,
    params: Params,
    prompts: RewardedPrompts,
    key: jax.Array,
    num_samples: int,
    *,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
    rows_at_once: int = 64,
) -> Samples:
    """Returns several completions of each of M prompts, M * num_samples in all.

    Those of one prompt follow one another, as in training.

    Args:
        module: the language model.
        params: of the policy.
        prompts: M.
        key: consumed.
        num_samples: completions of each.
        max_new_tokens: the most tokens of a completion.
        stop_ids: tokens that end one.
        rows_at_once: completions of a batch.
    """
    index = np.repeat(np.arange(len(prompts.ids), dtype=np.int32), num_samples)
    samples = sample_held_out(
        module,
        params,
        None,
        np.asarray(prompts.ids)[index],
        np.asarray(prompts.lengths)[index],
        key,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        rows_at_once=rows_at_once,
    )
    return samples.replace(prompt_index=jnp.asarray(index))


def judged_pairs(samples: Samples, scores: np.ndarray, num_samples: int) -> Rankings:
    """Returns for each prompt its best completion, chosen, and its worst, rejected.

    Prompts whose completions all have one score are left out. Of equal scores the first is
    taken.

    Args:
        samples: M * num_samples, those of one prompt one after another.
        scores: of the judge.
        num_samples: completions of each prompt.

    Raises:
        ValueError: no prompt has two completions of different scores.
    """
    by_prompt = scores.reshape(-1, num_samples)
    differ = (by_prompt.max(axis=1) > by_prompt.min(axis=1)).nonzero()[0]
    if not len(differ):
        raise ValueError(
            f"a pair needs two completions of different scores, got none among "
            f"{len(by_prompt)} prompts. Sample more, or choose another judge."
        )
    best, worst = by_prompt.argmax(axis=1), by_prompt.argmin(axis=1)
    both = np.stack([best, worst], axis=1) + num_samples * np.arange(len(best))[:, None]
    rows = both[differ]
    return Rankings.of(
        samples.ids[rows], samples.lengths[rows], None, None, samples.starts[rows]
    )


class Mixture(struct.PyTreeNode):
    """What the rewards of a mixture of prompts read.

    Attributes:
        params: of each reward.
        kinds: `[M]` int32, which of the rewards each prompt has.
    """

    params: tuple[Any, ...]
    kinds: jax.Array


@functools.cache
def reward_by_kind(*rewards: Reward) -> Reward:
    """Returns the reward that each prompt's kind has; `params` is a `Mixture`.

    Every reward sees all samples, whose `prompt_index` is that in the whole mixture.
    """

    def reward(params: Mixture, samples: Samples) -> jax.Array:
        if len(params.params) != len(rewards):
            raise ValueError(
                f"a mixture of {len(rewards)} rewards needs as many params, got "
                f"{len(params.params)}."
            )
        found = [of(x, samples) for of, x in zip(rewards, params.params, strict=True)]
        kinds = params.kinds[samples.prompt_index]
        return jnp.take_along_axis(jnp.stack(found), kinds[None], axis=0)[0]

    return reward


@functools.cache
def _jitted(reward: Reward) -> Any:
    return jax.jit(reward)
