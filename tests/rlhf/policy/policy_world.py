"""A language so small that all its completions can be listed, with their probabilities."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax.rlhf.models import Transformer, TransformerConfig
from rljax.rlhf.policy.policy_optimization import PolicyTask
from rljax.rlhf.policy.samples import Samples

VOCABULARY, STOP, T = 3, 2, 3
PROMPT = (1, 0)
CONFIG = TransformerConfig(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_layers=1,
    num_heads=2, num_kv_heads=1, head_dim=8, max_length=8,
)  # fmt: skip
MODULE = Transformer(CONFIG)


def every_completion():
    """All completions of at most T tokens, that end at the stop token, or at T."""
    found = []
    for length in range(1, T + 1):
        for ids in itertools.product(range(VOCABULARY), repeat=length):
            ends = ids[-1] == STOP or length == T
            if ends and STOP not in ids[:-1]:
                found.append(ids)
    return found


COMPLETIONS = every_completion()
COUNT = len(COMPLETIONS)
LENGTHS = np.array([len(ids) for ids in COMPLETIONS])
MASK = np.arange(T) < LENGTHS[:, None]
IDS = np.array([(*PROMPT, *ids, *(0,) * (T - len(ids))) for ids in COMPLETIONS])
STOPPED = np.array([ids[-1] == STOP for ids in COMPLETIONS])
REWARDS = np.random.default_rng(1).normal(size=COUNT).astype(np.float32)


@functools.cache
def model_params(seed):
    """Far from uniform: completions differ in probability by a factor of hundreds."""
    ids = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: MODULE.init(key, ids, method="logits")["params"])
    params = init(jax.random.key(seed))
    return jax.tree.map(lambda x: 6 * x if x.ndim > 2 else x, params) | {
        "lm_head": jax.tree.map(lambda x: 12 * x, params["lm_head"])
    }


def token_table(params, temperature=1.0):
    """`[COUNT, T, V]` log-probabilities of each next token, by log-softmax alone."""
    logits = MODULE.apply({"params": params}, jnp.asarray(IDS), method="logits")
    start = len(PROMPT)
    return jax.nn.log_softmax(logits[:, start - 1 : -1] / temperature)


def token_log_probs(params, temperature=1.0):
    """`[COUNT, T]`; 0 after an end."""
    table = token_table(params, temperature)
    chosen = jnp.asarray(IDS[:, len(PROMPT) :])[..., None]
    found = jnp.take_along_axis(table, chosen, axis=-1)[..., 0]
    return jnp.where(MASK, found, 0.0)


def completion_log_probs(params, temperature=1.0):
    return token_log_probs(params, temperature).sum(axis=1)


def all_samples(params, reference):
    """Every completion once, as `sample` would return it."""
    table, of_reference = token_table(params), token_table(reference)
    divergence = (jnp.exp(table) * (table - of_reference)).sum(axis=-1)
    return Samples(
        ids=jnp.asarray(IDS, jnp.int32),
        lengths=jnp.asarray(len(PROMPT) + LENGTHS, jnp.int32),
        starts=jnp.full(COUNT, len(PROMPT), jnp.int32),
        prompt_index=jnp.zeros(COUNT, jnp.int32),
        stopped=jnp.asarray(STOPPED),
        log_probs=token_log_probs(params),
        reference_log_probs=token_log_probs(reference),
        kl=jnp.where(MASK, divergence, 0.0),
    )


def objective(params, reference, rewards, beta):
    """E[r] - beta KL(pi || pi_ref), over completions, of all of them."""
    log_pi = completion_log_probs(params)
    gain = rewards - beta * (log_pi - completion_log_probs(reference))
    return (jnp.exp(log_pi) * gain).sum()


def task(reference, num_prompts=1):
    prompts = jnp.tile(jnp.array([PROMPT], jnp.int32), (num_prompts, 1))
    lengths = jnp.full(num_prompts, len(PROMPT), jnp.int32)
    return PolicyTask(prompts, lengths, reference)


def gradient_of(state, name="policy"):
    """The gradient of a learner's first step: ten times Adam's first mean."""

    def is_adam(part):
        return isinstance(part, optax.ScaleByAdamState)

    leaves = jax.tree.leaves(state.opt_state[name], is_leaf=is_adam)
    (adam,) = (part for part in leaves if is_adam(part))
    return jax.tree.map(lambda mean: mean / (1 - 0.9), adam.mu)


def weighted_sum(tree, weights):
    return jax.tree.map(lambda x: jnp.tensordot(weights, x, axes=1), tree)


def distance(one, other):
    """Between two gradients, over the first one's norm."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    squares = [(jnp.sum((a - b) ** 2), jnp.sum(a**2)) for a, b in pairs]
    apart, size = map(sum, zip(*squares, strict=True))
    return float(jnp.sqrt(apart / size))
