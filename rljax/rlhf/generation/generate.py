"""Completions sampled from a language model, as one function of arrays."""

import jax
from flax import struct

from rljax.base import Params
from rljax.numerics.sharding import gathered, split_rows
from rljax.rlhf.generation.decoding import Sampling, begin, go_on
from rljax.rlhf.generation.sampling import WHOLE, Truncation
from rljax.rlhf.models.transformer import Transformer, take_apart


class Generated(struct.PyTreeNode):
    """Completions of B prompts, of at most T tokens.

    Attributes:
        ids: `[B, T]` int32; 0 after a completion's end.
        lengths: `[B]` int32, tokens of each completion, the stop token included.
        log_probs: `[B, T]` float32, of each token under the distribution that it was
            drawn from; 0 after the end.
        stopped: `[B]` bool, whether it ended with a stop token rather than at T.
    """

    ids: jax.Array
    lengths: jax.Array
    log_probs: jax.Array
    stopped: jax.Array


def generate(
    module: Transformer,
    params: Params,
    prompts: jax.Array,
    prompt_lengths: jax.Array,
    keys: jax.Array,
    *,
    max_new_tokens: int,
    stop_ids: tuple[int, ...] = (),
    temperature: jax.Array | float = 1.0,
    truncation: Truncation = WHOLE,
    greedy: bool = False,
) -> Generated:
    """Returns a completion of each prompt; compile it with `jax.jit`.

    A row's completion does not depend on the other rows, nor on its padding, but for
    rounding. The loop ends when every row has ended.

    Args:
        module: the language model.
        params: its parameters.
        prompts: `[B, P]` int32, padded on the left.
        prompt_lengths: `[B]` int32, at least 1.
        keys: `[B]` typed keys, consumed, one for each row.
        max_new_tokens: T, at least 1.
        stop_ids: tokens that end a completion, which they belong to.
        temperature: logits are divided by it.
        truncation: which tokens may be drawn. What is learned from must be drawn from all.
        greedy: take the most probable token instead of drawing one.

    References:
        Caching: Shazeer (2019), https://arxiv.org/abs/1911.02150, section 2.3.

    Raises:
        ValueError: prompts and completions are longer than the model's context, or a
            number is out of range.
    """
    check(module, prompts.shape[-1], max_new_tokens, stop_ids, temperature)
    shapes = prompts.shape, prompt_lengths.shape, keys.shape
    if len(shapes[0]) != 2 or {*shapes[1:]} != {shapes[0][:1]}:
        raise ValueError(
            f"prompts must be [B, P], with a length and a key for each, got shapes "
            f"{', '.join(map(str, shapes))}. Split a key: jax.random.split(key, B)."
        )
    sampling = Sampling(temperature, truncation, greedy, stop_ids)
    params = gathered(params)
    prompts, prompt_lengths, keys = split_rows((prompts, prompt_lengths, keys))
    decoding = begin(
        module, params, prompts, prompt_lengths, keys, sampling, max_new_tokens
    )
    apart = take_apart(params)
    done = go_on(module, params, apart, decoding, sampling, max_new_tokens)
    return Generated(done.ids, done.lengths, done.log_probs, done.stopped)


def check(
    module: Transformer,
    width: int,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
    temperature: jax.Array | float,
) -> None:
    """Raises a ValueError for what cannot be generated; a traced temperature can be."""
    config = module.config
    if max_new_tokens < 1:
        raise ValueError(
            f"max_new_tokens must be at least 1, got {max_new_tokens}. Raise it."
        )
    if width + max_new_tokens > config.max_length:
        raise ValueError(
            f"prompts and completions must fit the model's context of "
            f"{config.max_length} tokens together, got {width} and {max_new_tokens}. "
            f"Shorten the prompts, or lower max_new_tokens."
        )
    if out := [i for i in stop_ids if not 0 <= i < config.vocab_size]:
        raise ValueError(
            f"stop_ids must be tokens of the model's {config.vocab_size}, got {out[0]}. "
            f"Leave it out."
        )
    traced = isinstance(temperature, jax.core.Tracer)
    if not traced and not float(temperature) > 0:
        raise ValueError(
            f"temperature must be above 0, got {temperature}. Raise it, or choose greedy."
        )
