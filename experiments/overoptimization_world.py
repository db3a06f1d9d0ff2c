"""What over-optimization is measured in: a tiny language, its models, and a gold reward."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sentiment
import tiny_prose
from flax import struct
from numpy.typing import ArrayLike
from overoptimization_settings import ROWS_AT_ONCE

from rljax.base import Params
from rljax.rlhf import Transformer, generate
from rljax.rlhf.evaluation import distinct_n, repetition
from rljax.rlhf.policy.forward import complete
from rljax.rlhf.policy.rewards import Reward
from rljax.rlhf.policy.samples import Samples, join_prompts


@dataclasses.dataclass(frozen=True)
class World:
    """A language and its models.

    Attributes:
        corpus: sentences.
        module: of the policy and of the judge.
        reference: parameters of the policy before it is optimized.
        judge: those of another model of the language, of another seed.
    """

    corpus: tiny_prose.Corpus
    module: Transformer
    reference: Params
    judge: Params


class Proxy(NamedTuple):
    """A reward that was learned: a function of `params` and samples, and its `params`."""

    reward: Reward
    params: Any


class Drawn(struct.PyTreeNode):
    """Completions of a policy, and what two language models make of them.

    Attributes:
        samples: N completions.
        log_ratio: `[N]`, log pi(y | x) - log pi_ref(y | x), whose mean is KL(pi || pi_ref).
        judge_loss: `[N]`, minus the judge's log-probability, the mean over the tokens.
    """

    samples: Samples
    log_ratio: jax.Array
    judge_loss: jax.Array


def gold_reward(texts: Sequence[str]) -> np.ndarray:
    """Returns `[N]`, the sums of VADER's valences of the texts' words, each counted once.

    A word that comes again adds nothing: to repeat a good word is no better review.

    Example:
        >>> gold_reward(["A great film.", "great great great", "Great, and funny!"]).tolist()
        [3.1, 3.1, 5.0]
    """
    words = (re.findall(r"\w+(?:['-]\w+)*", text.lower()) for text in texts)
    return sentiment.vader_sum([" ".join(dict.fromkeys(some)) for some in words])


def draw(world: World, params: Params, prompts: np.ndarray, key: jax.Array) -> Drawn:
    """Returns a completion of each of N prompts by a policy."""
    rows = jnp.asarray(prompts), jax.random.split(key, len(prompts))
    models = params, world.reference, world.judge
    return in_parts(lambda part: _draw(world.module, models, *part), rows)


@functools.partial(jax.jit, static_argnums=0)
def _draw(module, models, prompts, keys) -> Drawn:
    params, reference, judge = models
    size = len(prompts)
    lengths = jnp.full(size, tiny_prose.PROMPT_LENGTH, jnp.int32)
    generated = generate(
        module,
        params,
        prompts,
        lengths,
        keys,
        max_new_tokens=tiny_prose.COMPLETION_LENGTH,
        stop_ids=(tiny_prose.END,),
    )
    samples = join_prompts(
        prompts, lengths, jnp.arange(size), generated, module.config.vocab_size
    )

    def log_prob(params):
        found = complete(module, params, samples).log_probs(1.0)
        return jnp.where(samples.mask, found, 0.0).sum(axis=1)

    return Drawn(
        samples=samples,
        log_ratio=samples.log_probs.sum(axis=1) - log_prob(reference),
        judge_loss=-log_prob(judge) / samples.num_learned,
    )


def score(proxy: Proxy, samples: Samples) -> np.ndarray:
    """Returns `[N]`, the proxy's rewards of samples."""
    rows = in_parts(lambda part: _score(proxy.reward, proxy.params, part), samples)
    return np.asarray(rows, np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _score(reward, params, samples):
    return reward(params, samples)


def in_parts(function: Callable[[Any], Any], rows: Any) -> Any:
    """Returns a function's results `[N, ...]` of rows `[N, ...]`, some of them at a time."""
    count = len(jax.tree.leaves(rows)[0])
    # The last part is filled up with the first rows, so that all are one program's.
    places = np.resize(np.arange(count), (-(-count // ROWS_AT_ONCE), ROWS_AT_ONCE))
    parts = [function(jax.tree.map(lambda x, i=i: x[i], rows)) for i in places]
    return jax.tree.map(lambda *x: jnp.concatenate(x)[:count], *parts)


def qualities(
    texts: Sequence[str], lengths: ArrayLike, judge_loss: ArrayLike
) -> dict[str, float]:
    """Returns what a reward does not see of N texts, of which more makes them less distinct.

    Args:
        texts: N completions.
        lengths: `[N]`, their tokens.
        judge_loss: `[N]`, as in `Drawn`.
    """
    nats, tokens = np.asarray(judge_loss, np.float64), np.asarray(lengths)
    return {
        "perplexity": float(np.exp((nats * tokens).sum() / tokens.sum())),
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "repetition": float(repetition(texts).mean()),
        "length": float(np.asarray(lengths).mean()),
    }
