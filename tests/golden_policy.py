"""Our advantages, losses and gradients in the cases of tests/golden/make_policy.py."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from golden_training import is_adam

from rljax.rlhf import policy
from rljax.rlhf.policy import PolicyConfig, PolicyHyperparams, PolicyMethod, PolicyTask
from rljax.rlhf.policy.experience import learn_from
from rljax.rlhf.policy.samples import Samples
from rljax.rlhf.pretrained import load_language_model

GROUP_SIZE, MAX_NEW_TOKENS, TEMPERATURE = 4, 8, 0.8
CASES = {
    "grpo": policy.grpo(),
    "dr_grpo": policy.dr_grpo(),
    "dapo": policy.dapo(),
    "bnpo": (
        PolicyMethod(
            kl="loss", kl_estimator="k3", baseline="group", scale="group",
            ratio="token", aggregation="tokens",
        ),
        PolicyHyperparams(beta=0.3),
    ),
    "dual_clip": (
        PolicyMethod(
            kl="none", baseline="group", scale="batch", ratio="token",
            aggregation="tokens",
        ),
        PolicyHyperparams(ratio_max=1.3),
    ),
    "cispo": (policy.cispo().method, PolicyHyperparams(ratio_max=1.1)),
    "gspo": policy.gspo(),
    "rloo": policy.rloo(),
    "rloo_whitened": (
        PolicyMethod(
            whiten=True, baseline="leave_one_out", ratio="sequence_sum",
            aggregation="sequences",
        ),
        PolicyHyperparams(beta=0.3),
    ),
}  # fmt: skip


def our_gradient(folder, rows, old, reference, case, num_microbatches=1):
    """Advantages `[N]`, the loss of a batch, and its gradient, of `update`."""
    method, hyperparams = CASES[case]
    hyperparams = hyperparams.replace(
        temperature=TEMPERATURE, learning_rate=0.0, max_grad_norm=math.inf
    )
    module, variables = load_language_model(folder)
    samples = samples_of(rows, old, reference)
    config = PolicyConfig(
        method=method, num_prompts=2, group_size=GROUP_SIZE,
        max_new_tokens=MAX_NEW_TOKENS, num_microbatches=num_microbatches,
        lengths=(7, 11) if num_microbatches > 1 else (),
    )  # fmt: skip
    task = PolicyTask(
        jnp.ones((2, 3), jnp.int32), jnp.ones(2, jnp.int32), variables["params"]
    )
    rewards = jnp.asarray(rows["rewards"], jnp.float32)
    experience, _ = learn_from(
        samples, rewards, hyperparams, jnp.float32(hyperparams.beta), config
    )
    first = first_update(policy.policy_optimization(module, config))
    state, metrics = first(hyperparams, task, samples, rewards)
    leaves = jax.tree.leaves(state.opt_state["policy"], is_leaf=is_adam)
    (adam,) = (part for part in leaves if is_adam(part))
    gradient = jax.tree.map(lambda mean: mean / (1 - 0.9), adam.mu)
    return experience.advantages[:, 0], float(metrics["loss"].value), gradient


def samples_of(rows, old, reference):
    """Rows in whose padding stands what a mistake would take for tokens."""
    count = len(rows["prompts"])
    width = max(map(len, rows["prompts"])) + MAX_NEW_TOKENS
    ids = np.full((count, width), 7, np.int32)
    log_probs = np.full((2, count, MAX_NEW_TOKENS), -9.0, np.float32)
    starts = [len(prompt) for prompt in rows["prompts"]]
    lengths = []
    for i, completion in enumerate(rows["completions"]):
        row = [*rows["prompts"][i], *completion]
        ids[i, : len(row)] = row
        lengths.append(len(row))
        for j, numbers in enumerate((old[i], reference[i])):
            log_probs[j, i, : len(numbers)] = numbers
    return Samples(
        ids=jnp.asarray(ids),
        lengths=jnp.asarray(lengths, jnp.int32),
        starts=jnp.asarray(starts, jnp.int32),
        prompt_index=jnp.arange(count) // GROUP_SIZE,
        stopped=jnp.asarray([ids[-1] == 2 for ids in rows["completions"]]),
        log_probs=jnp.asarray(log_probs[0]),
        reference_log_probs=jnp.asarray(log_probs[1]),
    )


@functools.cache
def first_update(learner):
    """Compiled once for all uses of a learner."""

    def update(hyperparams, task, samples, rewards):
        state = learner.algorithm.init(jax.random.key(0), hyperparams, task)
        return learner.update(state, task, samples, rewards)

    return jax.jit(update)
