"""InstructGPT: fine-tuning, a reward model from comparisons, and RL against it.

Ouyang et al. (2022), https://arxiv.org/abs/2203.02155, section 3: SFT on demonstrations; a
reward model, which starts as the SFT model, from comparisons of its completions; policy
optimization of the reward with a penalty on the divergence from the SFT model. Here a judge
compares two completions of a prompt where people ranked four to nine; the policy's loss has
no term for pretraining data ("PPO", not "PPO-ptx"), and the reward is shifted and scaled
to mean 0 and variance 1 over the comparisons, where the paper shifts that of demonstrations
to 0. PPO is `policy.ppo()`, RLOO `policy.rloo()`: the config says which.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Params
from rljax.rlhf.data.rows import Completions, Rankings
from rljax.rlhf.models.reward_model import RewardModel
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.policy.rewards import model_reward
from rljax.rlhf.recipes.prompts import RewardedPrompts, judged_pairs, sample_each
from rljax.rlhf.recipes.stages import Arrays, Measures, Stages
from rljax.rlhf.recipes.trainings import Evaluate, Training, fine_tune, optimize
from rljax.rlhf.training import RewardTask, reward_training, trained_params
from rljax.rlhf.training.reward import scores_of
from rljax.training.sharded import fetched, mesh_for, place, sharded


class InstructGPTData(NamedTuple):
    """What the stages learn from.

    Attributes:
        demonstrations: of SFT.
        judged: prompts whose completions are compared, with the judge.
        held_out: prompts whose comparisons the reward model is tested on.
        prompts: `[M, P]` int32, padded on the left, of policy optimization.
        prompt_lengths: `[M]` int32.
    """

    demonstrations: Completions
    judged: RewardedPrompts
    held_out: RewardedPrompts
    prompts: Any
    prompt_lengths: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructGPTSettings:
    """The sizes of the stages.

    Attributes:
        sft: of an `SFTConfig`.
        reward: of a `RewardConfig`; its measure is "accuracy", of held-out comparisons.
        rl: of a `PolicyConfig`.
        num_samples: completions of each judged prompt, of which the best and the worst
            are compared.
    """

    sft: Training
    reward: Training
    rl: Training
    num_samples: int = 4


def instructgpt(
    module: Transformer,
    params: Params,
    data: InstructGPTData,
    settings: InstructGPTSettings,
    stages: Stages,
    evaluate: Evaluate,
    key: jax.Array,
) -> Params:
    """Returns a language model after SFT, reward training and policy optimization.

    Args:
        module: the language model.
        params: of the pretrained model.
        data: demonstrations, and prompts with their judge.
        settings: sizes.
        stages: keeps what each stage makes.
        evaluate: measures a model on held-out prompts.
        key: consumed.
    """
    sft_key, sample_key, test_key, reward_key, rl_key = jax.random.split(key, 5)
    stages.measure("pretrained", lambda: evaluate(params, params))

    tuned = fine_tune(
        stages, "sft", module, params, data.demonstrations, settings.sft, sft_key,
        evaluate, stages.measured["pretrained"],
    )  # fmt: skip

    def comparisons(prompts: RewardedPrompts, key: jax.Array) -> Rankings:
        config, num_samples = settings.rl.config, settings.num_samples
        samples = sample_each(
            module, tuned, prompts, key, num_samples,
            max_new_tokens=config.max_new_tokens, stop_ids=config.stop_ids,
        )  # fmt: skip
        return judged_pairs(samples, prompts.scores(samples), num_samples)

    def compared(prompts: RewardedPrompts, key: jax.Array) -> tuple[Arrays, Measures]:
        return vars(comparisons(prompts, key)), {}

    pairs = stages.compute("comparisons", lambda: compared(data.judged, sample_key))
    test = stages.compute("held_out", lambda: compared(data.held_out, test_key))

    reward_module = RewardModel(module.config)
    learned = train_reward(
        stages, reward_module, tuned, Rankings(**pairs), Rankings(**test),
        settings.reward, reward_key,
    )  # fmt: skip

    scores = np.asarray(_scores(reward_module, learned, Rankings(**pairs)), np.float64)
    scale = {"mean": jnp.float32(scores.mean()), "std": jnp.float32(scores.std())}
    prompts = RewardedPrompts(
        data.prompts,
        data.prompt_lengths,
        model_reward(reward_module),
        {"params": learned, "scale": scale},
    )
    return optimize(
        stages, "rl", module, tuned, prompts, settings.rl, rl_key, evaluate,
        stages.measured["sft"],
    )  # fmt: skip


def train_reward(
    stages: Stages,
    module: RewardModel,
    params: Params,
    pairs: Rankings,
    test: Rankings,
    training: Training,
    key: jax.Array,
) -> Params:
    """Returns a reward model's parameters, learned from pairs, as a stage.

    It starts as the language model of `params`. Its measure is whether it prefers the
    chosen completion of each test pair, a tie one half; before, that of a coin.
    """
    config = training.config
    trunk = {name: x for name, x in params.items() if name != "lm_head"}
    mesh = mesh_for(config.microbatch_size)
    task = place(RewardTask(pairs, {"trunk": trunk}), mesh)

    def params_of(state: Any) -> Params:
        return fetched(trained_params(module, config.trainable, state, task), mesh)

    def evaluate(learned: Params) -> Measures:
        chosen, rejected = np.asarray(_scores(module, learned, test)).T
        return {"accuracy": 0.5 * (1 + np.sign(chosen - rejected))}

    return stages.train(
        "reward_model",
        sharded(reward_training(module, config), mesh),
        task,
        training.hyperparams,
        key=key,
        num_updates=training.num_updates,
        rows_per_update=config.batch_size,
        unit="pairs",
        params_of=params_of,
        evaluate=evaluate,
        improves=training.improves,
        before={"accuracy": 0.5},
    )


@functools.partial(jax.jit, static_argnums=0)
def _scores(module: RewardModel, params: Params, rows: Rankings) -> jax.Array:
    return scores_of(module, params, rows.ids, rows.lengths)
