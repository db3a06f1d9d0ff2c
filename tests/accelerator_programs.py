"""The programs that experiments compile, as functions with the shapes of what they read.

No weights, no data: what an experiment would draw or load is a `jax.ShapeDtypeStruct`, and
a function that is nested in an experiment's `main` is written here once more. Models
have two blocks, but for some in the real shape of SmolLM2-135M. What experiments divide
among devices is divided among two that pass for accelerators.
"""

import accelerator_control as control
import accelerator_devices as devices
import accelerator_models as models
import accelerator_parts as parts
import cartpole_ppo
import cartpole_preferences
import recipes_sizes
import thermostat_ppo
import thermostat_preferences

import rljax
from rljax.rlhf import (
    DirectTask,
    RewardConfig,
    RewardModel,
    Rope,
    SFTConfig,
    SFTTask,
    Transformer,
    TransformerConfig,
    direct_alignment,
    fine_tuning,
)
from rljax.sweeps import grid

SMOLLM2 = TransformerConfig(
    vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_layers=30,
    num_heads=9, num_kv_heads=3, head_dim=64, max_length=8192, rope=Rope(theta=1e5),
    tie_embeddings=True,
)  # fmt: skip

PROGRAMS = {
    "thermostat_ppo: examination": control.thermostat_examination,
    "sweep_thermostat: test": lambda: control.rooms_swept(updates=False),
    "sweep_cartpole, search_cartpole: test": lambda: control.searched(updates=False),
    "sweep_preferences: test": lambda: control.comparisons_swept(updates=False),
    "chapter: objective": control.thermostat_objective,
    "chapter: bandit": control.bandit,
    "rlhf_tiny, pretrain_tiny: completions": models.answers,
    "enumerable_world: objective": lambda: models.one_run(
        models.enumerable(), updates=False
    ),
    "beta_frontier: objective": lambda: models.one_run(
        models.frontier(), updates=False
    ),
    "overoptimization: scores": models.prose_scored,
    "recipes, instructgpt: log-probabilities": models.reference_log_probs,
    "score_completions: scores": models.scored,
    "reward_model, instructgpt: features": models.frozen_features,
    "reward_model, instructgpt: heads": models.frozen_heads,
}
"""By name: the experiments that compile it, if any do, before a colon."""

ON_TWO_DEVICES = {
    "cartpole_ppo: update": lambda: control.ppo_population(
        cartpole_ppo, cartpole_ppo.TASK
    ),
    "cartpole_ppo: evaluation": control.ppo_evaluation,
    "cartpole_preferences: evaluation": control.preference_evaluation,
    "thermostat_preferences: test": control.preference_test,
    "robustness_cartpole: environments": devices.environments,
    "simulate": control.simulated,
    "rljax reward --fsdp 2": devices.parameters,
}

MORE_PROGRAMS = {
    "sweep_thermostat: population": lambda: control.rooms_swept(updates=True),
    "sweep_cartpole, search_cartpole: population": lambda: control.searched(
        updates=True
    ),
    "sweep_preferences: population": lambda: control.comparisons_swept(updates=True),
    "robustness_cartpole: plants": control.plants,
    "pretrain_tiny: update": models.pretraining,
    "rlhf_tiny: PPO": lambda: models.rlhf_tiny_update("ppo"),
    "rlhf_tiny: GRPO": lambda: models.rlhf_tiny_update("grpo"),
    "enumerable_world: run": lambda: models.one_run(models.enumerable()),
    "enumerable_world: population": lambda: parts.sweep_of(
        models.enumerable(), grid(beta=[0.5, 1.0])
    ),
    "beta_frontier: population": lambda: parts.sweep_of(
        models.frontier(), grid(beta=[0.1, 0.2])
    ),
    "overoptimization: SFT": lambda: models.sft(
        models.PROSE, SFTConfig(batch_size=32), 12
    ),
    "overoptimization: reward training": lambda: models.preference_reward(
        RewardModel(models.PROSE.config), RewardConfig(batch_size=32), 12
    ),
    "overoptimization: completions": models.prose_drawn,
    "recipes: SFT": lambda: models.training_of(
        recipes_sizes.sft(60), fine_tuning, SFTTask, models.TINY, models.completions(18)
    ),
    "recipes: reward training": lambda: models.preference_reward(
        RewardModel(models.TINY.config), recipes_sizes.reward(120).config, 18
    ),
    "recipes: GRPO of a mixture": models.mixed_update,
    "recipes, instructgpt: held-out completions": lambda: models.held_out_samples(
        models.TINY
    ),
    "reward_model: last blocks": lambda: models.preference_reward(
        RewardModel(models.TINY.config), models.LAST_BLOCK, 64
    ),
    "reward_model: last blocks' scores": models.blocks_scored,
    "instructgpt: SFT of LoRA": lambda: models.instructgpt_sft(models.TINY, "lora"),
    "instructgpt: RLOO, shared trunk": lambda: models.instructgpt_update(
        models.TINY, last_layers=1
    ),
    "instructgpt: RLOO, shared trunk, in SmolLM2's shape": lambda: (
        models.instructgpt_update(Transformer(SMOLLM2))
    ),
    "instructgpt: PPO, shared trunk": lambda: models.instructgpt_update(
        models.TINY, recipe="ppo", last_layers=1
    ),
    "instructgpt: RLOO of LoRA": lambda: models.instructgpt_update(
        models.TINY, train="lora"
    ),
    "rljax generate": models.generation,
    "overoptimization: RLOO": models.prose_update,
    "recipes: DPO": lambda: models.training_of(
        recipes_sizes.dpo(40),
        direct_alignment,
        DirectTask,
        models.TINY,
        models.pairs(18),
    ),
    "instructgpt: SFT in SmolLM2's shape": lambda: models.instructgpt_sft(
        Transformer(SMOLLM2), "last"
    ),
    "rewards on the host": models.updates_with_host_rewards,
}
"""Those that take longer to trace, and whose parts are among the others for the most."""

MORE_ON_TWO_DEVICES = {
    "cartpole_ppo: updates": lambda: control.ppo_population(
        cartpole_ppo, cartpole_ppo.TASK, parts.updates_of
    ),
    "thermostat_ppo: update": lambda: control.ppo_population(
        thermostat_ppo, rljax.ThermostatParams()
    ),
    "cartpole_preferences: round": lambda: control.preference_round(
        cartpole_preferences, cartpole_preferences.TASK
    ),
    "thermostat_preferences: round": lambda: control.preference_round(
        thermostat_preferences, thermostat_preferences.ROOMS["hard"]
    ),
}
