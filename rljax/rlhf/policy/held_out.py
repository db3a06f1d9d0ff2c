"""Completions of held-out prompts, for figures that compare policies prompt by prompt.

    samples = sample_held_out(
        module, params, reference_params, prompts, prompt_lengths, key,
        max_new_tokens=32, stop_ids=(0,),
    )
    rewards = reward(reward_params, samples)  # [M]
    kl = divergences(samples).mean()  # an estimate of KL(pi || pi_ref), in nats

Two policies that are sampled with the same key share their random numbers, prompt by
prompt, so that their difference in reward has less noise than either of them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Params
from rljax.numerics.compiler import compiler_options
from rljax.numerics.validation import check_at_least
from rljax.rlhf.generation import generate
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.policy.forward import complete
from rljax.rlhf.policy.samples import Samples, join_prompts


def sample_held_out(
    module: Transformer,
    params: Params,
    reference_params: Params | None,
    prompts: jax.Array | np.ndarray,
    prompt_lengths: jax.Array | np.ndarray,
    key: jax.Array,
    *,
    max_new_tokens: int,
    stop_ids: tuple[int, ...] = (),
    temperature: float = 1.0,
    rows_at_once: int = 64,
) -> Samples:
    """Returns one completion of each of M prompts, sampled by a policy.

    The random numbers of row i follow from `fold_in(key, i)`: other policies share them,
    and `rows_at_once` changes nothing but rounding. For several completions of a prompt,
    repeat its row.

    Args:
        module: the language model, plain.
        params: of the policy.
        reference_params: of the model that the policy is compared with; None of none.
        prompts: `[M, P]` int32, padded on the left.
        prompt_lengths: `[M]` int32, at least 1.
        key: not consumed: give every policy the same one.
        max_new_tokens: T, the most tokens of a completion.
        stop_ids: tokens that end a completion, which they belong to.
        temperature: logits are divided by it, in every log-probability, too.
        rows_at_once: prompts of a batch. The last one is filled up with what it has.

    Returns:
        M samples with `log_probs`, and with `reference_log_probs` if there is a reference.

    Raises:
        ValueError: there is no prompt, or as for `rljax.rlhf.generate`.
    """
    count = len(prompts)
    check_at_least(1, prompts=count, rows_at_once=rows_at_once)
    size = min(rows_at_once, count)
    prompts, prompt_lengths = np.asarray(prompts), np.asarray(prompt_lengths)
    program = _program(module, max_new_tokens, stop_ids)
    parts = []
    for start in range(0, count, size):
        rows = np.resize(np.arange(start, min(start + size, count)), size)
        of_rows = prompts[rows], prompt_lengths[rows], rows.astype(np.int32)
        found = program(params, reference_params, *of_rows, key, temperature)
        parts.append(jax.tree.map(np.asarray, found))
    return jax.tree.map(lambda *xs: jnp.asarray(np.concatenate(xs)[:count]), *parts)


def divergences(samples: Samples) -> jax.Array:
    """Returns `[M]` log pi(y|x) - log pi_ref(y|x), in nats, of each completion.

    Their mean estimates KL(pi || pi_ref); a single one may be negative.

    Raises:
        ValueError: the samples have no log-probabilities under a reference.
    """
    if samples.reference_log_probs is None:
        raise ValueError(
            "the samples must have the log-probabilities of a reference, got none. Give "
            "sample_held_out reference_params."
        )
    return (samples.log_probs - samples.reference_log_probs).sum(axis=1)


@functools.cache
def _program(
    module: Transformer, max_new_tokens: int, stop_ids: tuple[int, ...]
) -> Any:
    def sample(
        params: Params,
        reference_params: Params | None,
        prompts: jax.Array,
        prompt_lengths: jax.Array,
        rows: jax.Array,
        key: jax.Array,
        temperature: jax.Array,
    ) -> Samples:
        generated = generate(
            module,
            params,
            prompts,
            prompt_lengths,
            jax.vmap(functools.partial(jax.random.fold_in, key))(rows),
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids,
            temperature=temperature,
        )
        samples = join_prompts(
            prompts, prompt_lengths, rows, generated, module.config.vocab_size
        )
        if reference_params is None:
            return samples
        reference = complete(module, reference_params, samples).log_probs(temperature)
        return samples.replace(
            reference_log_probs=jnp.where(samples.mask, reference, 0.0)
        )

    return jax.jit(sample, compiler_options=compiler_options())
