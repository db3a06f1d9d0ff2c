"""Policy optimization: a language model learns to give completions of high reward.

    from rljax.rlhf import policy, trained_params
    from rljax.training import train

    method, hyperparams = policy.rloo()  # or grpo, dr_grpo, dapo, gspo, cispo, ppo, ...
    config = policy.PolicyConfig(
        method=method, num_prompts=8, group_size=8, max_new_tokens=32, stop_ids=(0,)
    )

Where the reward is a pure function of tokens, `(task.reward, samples) -> [N]`, the learner
is an algorithm as any other, for `train`, populations and sweeps:

    def reward(params, samples):
        return (samples.completions == params).sum(axis=1).astype(jnp.float32)

    learner = policy.policy_optimization(module, config, reward)
    task = policy.PolicyTask(prompts, prompt_lengths, params, reward=jnp.int32(7))
    state = jax.jit(learner.algorithm.init)(key, hyperparams, task)
    state = train(learner.algorithm, state, task, num_updates=100)
    params = trained_params(module, config.trainable, state, task)

`prompts` `[M, P]` are padded on the left, `params` is the model before training, and the
reference. Where the reward is a function of texts on the host, sample and update are
called one after another:

    learner = policy.policy_optimization(module, config)
    learner.algorithm.check(state, task)  # which `train` does for itself
    sample, update = jax.jit(learner.sample), jax.jit(learner.update)
    state, samples = sample(state, task)
    rewards = ...  # [N], of samples.completions [N, T] and samples.num_learned [N]
    state, metrics = update(state, task, samples, rewards)

`text_training` makes of that what `train` takes, with its logs and checkpoints:

    task = policy.text_task(tokenizer, texts, params)
    on_text = policy.text_training(learner, tokenizer, texts, reward)
    state = train(on_text.algorithm, state, task, 100, take_updates=on_text.take_updates)

`rewards` has both kinds of rewards; `PromptBandit` is the same problem as an environment.
Metrics are `rljax.base.Mean`s: `metrics["reward"].value`. May import `rljax.rlhf.data`,
`models`, `pretrained`, `scoring`, `generation` and `training`.
"""

from rljax.rlhf.policy.bandit import BanditParams, PromptBandit
from rljax.rlhf.policy.policy_optimization import (
    Learner,
    PolicyState,
    PolicyTask,
    policy_optimization,
)
from rljax.rlhf.policy.recipes import (
    Recipe,
    bnpo,
    cispo,
    dapo,
    dr_grpo,
    grpo,
    gspo,
    ppo,
    reinforce,
    rloo,
)
from rljax.rlhf.policy.samples import Samples
from rljax.rlhf.policy.settings import (
    PolicyConfig,
    PolicyHyperparams,
    PolicyMethod,
    check_hyperparams,
)
from rljax.rlhf.policy.text_training import TextTraining, text_task, text_training

__all__ = [
    "BanditParams", "Learner", "PolicyConfig", "PolicyHyperparams", "PolicyMethod", "PolicyState",
    "PolicyTask", "PromptBandit", "Recipe", "Samples", "TextTraining", "bnpo", "check_hyperparams", "cispo",
    "dapo", "dr_grpo", "grpo", "gspo", "policy_optimization", "ppo", "reinforce", "rloo",
    "text_task", "text_training",
]  # fmt: skip
