"""Policy optimization: a language model learns to give completions of high reward.

Maximizes E[r(x, y)] - beta KL(pi || pi_ref). An update is two pure functions with the
rewards between them: `sample` draws completions from the policy, `update` learns from them
and their rewards. Where the reward is a function of tokens, an algorithm's `step` is
all three.

References:
    Ziegler et al. (2019), https://arxiv.org/abs/1909.08593; Stiennon et al. (2020),
    https://arxiv.org/abs/2009.01325; Ouyang et al. (2022),
    https://arxiv.org/abs/2203.02155.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from rljax.base import Algorithm, Mean, Metrics, Params
from rljax.numerics.random import permutations
from rljax.numerics.sharding import split_rows
from rljax.rlhf.generation import generate
from rljax.rlhf.models.parameters import check_language_model
from rljax.rlhf.models.trainable import adapt, join, merge, split
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.policy.critics import start_critic, token_values
from rljax.rlhf.policy.experience import Experience, learn_from
from rljax.rlhf.policy.forward import complete, in_parts, run_trunk
from rljax.rlhf.policy.kl import adapt_beta, exact_kl
from rljax.rlhf.policy.loss import loss_of_rows
from rljax.rlhf.policy.rewards.token_rewards import Reward
from rljax.rlhf.policy.samples import Samples, join_prompts
from rljax.rlhf.policy.settings import (
    PolicyConfig,
    PolicyHyperparams,
    check_hyperparams,
)
from rljax.rlhf.training.microbatches import check_lengths, gradients
from rljax.rlhf.training.optimizer import adamw, batch_of_rows, learning_rate
from rljax.rlhf.training.start import language_model_start
from rljax.rlhf.training.update import start_state


class PolicyTask(struct.PyTreeNode):
    """What is read: prompts, the model before training, and what the reward function reads.

    Attributes:
        prompts: `[M, P]` int32, padded on the left.
        prompt_lengths: `[M]` int32, at least 1.
        params: of the policy before training, and of the reference.
        reward: any pytree, such as the variables of a reward model.
    """

    prompts: jax.Array
    prompt_lengths: jax.Array
    params: Params
    reward: Any = None


class PolicyState(struct.PyTreeNode):
    """All that changes in a run: checkpoint this and nothing else."""

    key: jax.Array
    order_key: jax.Array  # of the order of prompts; it stays
    step: jax.Array  # int32, updates so far
    params: Params  # those of the policy that are trained
    critic: Params  # {} without one
    opt_state: Any  # of both
    hyperparams: PolicyHyperparams
    beta: jax.Array  # the present weight of the divergence


class Learner(NamedTuple):
    """A policy optimization, whole and in its two halves.

    Attributes:
        algorithm: `step` samples, computes the rewards and updates.
        sample: `(state, task) -> (state, samples)`.
        update: `(state, task, samples, rewards) -> (state, metrics)`; of `[N]` rewards.
        config: its configuration.
        module: the model, plain.
    """

    algorithm: Algorithm[PolicyState]
    sample: Callable[[PolicyState, PolicyTask], tuple[PolicyState, Samples]]
    update: Callable[..., tuple[PolicyState, Metrics]]
    config: PolicyConfig
    module: Transformer


@functools.cache
def policy_optimization(
    module: Transformer, config: PolicyConfig, reward: Reward | None = None
) -> Learner:
    """Makes the optimization of one language model with one set of sizes. Cached.

    Args:
        module: the model, plain; it is adapted to what is trained.
        config: the method, sizes, and what is trained.
        reward: of tokens, as in `rljax.rlhf.policy.rewards`; None where rewards are
            computed on the host, and `sample` and `update` called one after another.

    Returns:
        A learner whose hyperparameters are `PolicyHyperparams` and whose task is a
        `PolicyTask`. Its metrics: `reward` without penalties; `score`, with those for
        length and for not stopping; `kl` of a completion and `kl_per_token`, in nats;
        `beta`; `entropy` of a token, estimated; `completion_tokens`; `stopped`;
        `equal_groups`, the share of groups whose scores are all equal; `clip_fraction` of
        tokens; `ratio_deviation_first`, how far from 1 an importance ratio is at most in
        the first gradient step, rounding alone; `loss`; `policy_loss`; `grad_norm` before
        clipping; `learning_rate`; with a critic `value_loss` and `explained_variance`.

    Raises:
        ValueError: completions do not fit the model, or a stop token is none of its ids.
    """
    _check_model(module, config)
    method, plain = config.method, module
    module = adapt(module, config.trainable)
    fixed_layers = module.config.fixed_layers
    shares_trunk = config.shares_trunk and fixed_layers > 0
    reader = module if shares_trunk else plain  # of what is not trained

    def init(
        key: jax.Array, hyperparams: PolicyHyperparams, task: PolicyTask
    ) -> PolicyState:
        key, order_key, model_key = jax.random.split(key, 3)
        params = language_model_start(model_key, module, task.params)
        start = start_state(key, hyperparams, params, config, fixed_layers)
        critic = start_critic(method.critic, plain, task.params)
        return PolicyState(
            key=start.key,
            order_key=order_key,
            step=start.step,
            params=start.params,
            critic=critic,
            opt_state={
                "policy": start.opt_state,
                "critic": adamw(start.hyperparams, start.step).init(critic),
            },
            hyperparams=start.hyperparams,
            beta=start.hyperparams.beta,
        )

    def policy_params(learned: Params, task: PolicyTask) -> Params:
        return join(learned, split(task.params, config.trainable, fixed_layers)[1])

    def sample(state: PolicyState, task: PolicyTask) -> tuple[PolicyState, Samples]:
        """Draws completions of the next prompts, and looks at them with all models."""
        key, sample_key = jax.random.split(state.key)
        num_prompts = len(task.prompts)
        index = batch_of_rows(
            state.order_key, state.step, num_prompts, config.num_prompts
        )
        index = jnp.repeat(index, config.group_size)
        whole, params = merge(module, policy_params(state.params, task))
        prompts, prompt_lengths = task.prompts[index], task.prompt_lengths[index]
        generated = generate(
            whole,
            params,
            prompts,
            prompt_lengths,
            jax.random.split(sample_key, config.num_samples),
            max_new_tokens=config.max_new_tokens,
            stop_ids=config.stop_ids,
            temperature=state.hyperparams.temperature,
        )
        samples = split_rows(
            join_prompts(
                prompts, prompt_lengths, index, generated, plain.config.vocab_size
            )
        )

        def look(rows: Samples) -> dict[str, jax.Array]:
            found, temperature = {}, state.hyperparams.temperature
            kept = {}
            if shares_trunk:
                trunk = run_trunk(reader, task.params, rows, config.question)
                kept = dict(zip(("trunk", "trunk_last"), trunk, strict=True))
                rows = rows.replace(**kept)
            is_exact = method.kl != "none" and method.kl_estimator == "exact"
            if method.critic != "none" or is_exact:
                policy = complete(module if shares_trunk else whole, params, rows)
            if method.critic != "none":
                found["values"] = token_values(
                    method.critic, plain, state.critic, policy.hidden, rows
                )
            if method.kl != "none":
                reference = complete(reader, task.params, rows)
                found["reference_log_probs"] = reference.log_probs(temperature)
            if is_exact:
                logits = policy.logits[:, :-1], reference.logits[:, :-1]
                found["kl"] = exact_kl(*logits, temperature)
            return kept | {
                name: jnp.where(rows.mask, x, 0.0) for name, x in found.items()
            }

        num_parts = config.num_minibatches * config.num_microbatches
        found = in_parts(look, samples, num_parts, _lengths(config, samples))
        return state.replace(key=key), samples.replace(**split_rows(found))

    def update(
        state: PolicyState, task: PolicyTask, samples: Samples, rewards: jax.Array
    ) -> tuple[PolicyState, Metrics]:
        """Learns from completions and their rewards `[N]`."""
        batch, metrics = learn_from(
            samples, rewards, state.hyperparams, state.beta, config
        )
        key, order_key = jax.random.split(state.key)
        steps = config.num_epochs * config.num_minibatches
        if steps == 1:
            orders = jnp.arange(config.num_samples)
        else:
            orders = permutations(order_key, config.num_epochs, config.num_samples)
        learned = {"policy": state.params, "critic": state.critic}
        (learned, opt_state), sums = jax.lax.scan(
            functools.partial(gradient_step, state, task, batch),
            (learned, state.opt_state),
            orders.reshape(steps, -1),
        )
        counts = batch.samples.mask.sum() * jnp.float32(config.num_epochs)
        metrics["clip_fraction"] = Mean(sums.pop("clipped").sum(), counts)
        metrics["ratio_deviation_first"] = Mean.of(sums.pop("deviation")[0].max())
        metrics |= {name: Mean.of(values) for name, values in sums.items()}
        metrics["learning_rate"] = Mean.of(learning_rate(state.hyperparams, state.step))
        beta = state.beta
        if method.kl != "none":
            beta = adapt_beta(
                beta,
                metrics["kl"].value,
                target=state.hyperparams.kl_target,
                horizon=state.hyperparams.kl_horizon,
                num_samples=config.num_samples,
            )
        state = state.replace(
            key=key,
            step=state.step + 1,
            params=learned["policy"],
            critic=learned["critic"],
            opt_state=opt_state,
            beta=beta,
        )
        return state, metrics

    def gradient_step(
        state: PolicyState, task: PolicyTask, batch: Experience, carry: Any, rows: Any
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Takes one gradient step, on these rows of the batch."""
        learned, opt_state = carry
        minibatch = jax.tree.map(lambda x: x[rows], batch)
        gradient, sums = gradients(
            functools.partial(loss, state, task, len(rows)),
            learned,
            minibatch.as_minibatch(method, config.max_new_tokens),
            num_microbatches=config.num_microbatches,
            lengths=_lengths(config, batch.samples),
        )
        sums["grad_norm"] = optax.tree.norm(gradient["policy"])
        rates = {
            "policy": state.hyperparams.learning_rate,
            "critic": state.hyperparams.critic_learning_rate,
        }
        after, states = {}, {}
        for name, rate in rates.items():
            optimizer = adamw(state.hyperparams.replace(learning_rate=rate), state.step)
            change, states[name] = optimizer.update(
                gradient[name], opt_state[name], learned[name]
            )
            after[name] = optax.apply_updates(learned[name], change)
        return (after, states), sums

    def loss(
        state: PolicyState, task: PolicyTask, num_rows: int, learned: Any, rows: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss of some rows of a minibatch, and sums over them."""
        samples = rows.samples
        policy = complete(module, policy_params(learned["policy"], task), samples)
        reference = values = None
        if method.kl in ("loss", "whole") and method.kl_estimator == "exact":
            fixed = jax.lax.stop_gradient(task.params)
            reference = complete(reader, fixed, samples)
        if method.critic != "none":
            values = token_values(
                method.critic, plain, learned["critic"], policy.hidden, samples
            )
        total, sums = loss_of_rows(
            method, rows, policy, reference, values, state.hyperparams, state.beta
        )
        # A largest number does not add up over parts; each row's, at its place, does.
        none = jnp.zeros(num_rows, sums["deviation"].dtype)
        sums["deviation"] = none.at[rows.places].set(sums["deviation"])
        return total, sums

    def step(state: PolicyState, task: PolicyTask) -> tuple[PolicyState, Metrics]:
        """One update: sample, compute the rewards, learn."""
        if reward is None:
            raise ValueError(
                "policy_optimization has no reward of tokens, so it cannot take a step by "
                "itself. Call sample and update, or use text_training, or give it a reward."
            )
        state, samples = sample(state, task)
        return update(state, task, samples, reward(task.reward, samples))

    def check(state: PolicyState, task: PolicyTask) -> None:
        """What `train` calls before it compiles."""
        check_hyperparams(state.hyperparams)
        check_language_model(plain, task.params)
        _check_prompts(task, plain, config)

    return Learner(Algorithm(init, step, check), sample, update, config, plain)


def _lengths(config: PolicyConfig, samples: Samples) -> tuple[int, ...]:
    return config.lengths or (samples.ids.shape[-1],)


def _check_model(module: Transformer, config: PolicyConfig) -> None:
    vocab_size, longest = module.config.vocab_size, module.config.max_length
    for name in ("stop_ids", "question"):
        ids = getattr(config, name)
        if not all(0 <= token < vocab_size for token in ids):
            raise ValueError(
                f"{name} must be ids of the model, in [0, {vocab_size}), got {ids}. Use "
                f"the tokenizer's."
            )
    if config.max_new_tokens >= longest:
        raise ValueError(
            f"max_new_tokens must leave room for a prompt in the model's {longest} tokens, "
            f"got {config.max_new_tokens}. Lower it."
        )


def _check_prompts(task: PolicyTask, module: Transformer, config: PolicyConfig) -> None:
    lengths, prompts = np.asarray(task.prompt_lengths), task.prompts
    is_array = isinstance(prompts, jax.Array | np.ndarray)
    if not is_array or prompts.ndim != 2 or prompts.dtype.kind not in "iu":
        got = (
            f"{prompts.dtype}{list(prompts.shape)}"
            if is_array
            else type(prompts).__name__
        )
        raise ValueError(
            f"prompts must be an integer array [M, P], got {got}. Pad them on the left."
        )
    num_prompts, width = prompts.shape
    if lengths.shape != (num_prompts,):
        raise ValueError(
            f"prompt_lengths must be one number for each of {num_prompts} prompts, got "
            f"the shape {lengths.shape}. Give both as `text_task` makes them."
        )
    if num_prompts < config.num_prompts:
        raise ValueError(
            f"num_prompts must be at most the {num_prompts} prompts there are, got "
            f"{config.num_prompts}. Lower it, or give more prompts."
        )
    if lengths.min() < 1 or lengths.max() > width:
        wrong = int(np.argmax((lengths < 1) | (lengths > width)))
        raise ValueError(
            f"every prompt must have from 1 to {width} tokens, but prompt {wrong} has "
            f"{lengths[wrong]}. Begin an empty one with the tokenizer's first token."
        )
    _check_ids(np.asarray(prompts), lengths, module.config.vocab_size)
    most, longest = module.config.max_length, width + config.max_new_tokens
    asked = len(config.question)
    if longest + asked > most:
        question = f" + {asked} of the question" if asked else ""
        raise ValueError(
            f"a prompt and its completion must fit into the model's {most} tokens, got "
            f"{width} + {config.max_new_tokens}{question}. Shorten the prompts, or lower "
            f"max_new_tokens."
        )
    check_lengths(config.lengths, longest)


def _check_ids(prompts: np.ndarray, lengths: np.ndarray, vocab_size: int) -> None:
    """Raises a ValueError for tokens of another model, and for padding on the right."""
    padding = np.arange(prompts.shape[1]) < prompts.shape[1] - lengths[:, None]
    wrong = ~padding & ((prompts < 0) | (prompts >= vocab_size))
    if wrong.any():
        row = np.argwhere(wrong)[0, 0]
        raise ValueError(
            f"every token must be one of the model's, in [0, {vocab_size:,}), but prompt "
            f"{row} has {prompts[wrong][0]}. Use the model's tokenizer."
        )
    # Padding is one id over and over: so are then the ends, and the beginnings are not.
    ends = prompts[padding[:, ::-1]]
    if padding.any() and (ends == ends[0]).all() and np.ptp(prompts[padding]):
        raise ValueError(
            f"prompts must be padded on the left, got prompts that all end with token "
            f"{ends[0]}, as if they were padded on the right. Move it to their beginnings."
        )


Config, Hyperparams, make = PolicyConfig, PolicyHyperparams, policy_optimization
