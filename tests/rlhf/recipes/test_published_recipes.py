"""The three recipes end to end, on a model so small that nothing is learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf import (
    DirectConfig,
    DirectHyperparams,
    RewardConfig,
    RewardHyperparams,
    SFTConfig,
    SFTHyperparams,
    policy,
)
from rljax.rlhf.data.rows import Completions
from rljax.rlhf.models import LastLayers, Transformer, TransformerConfig
from rljax.rlhf.policy.held_out import divergences, sample_held_out
from rljax.rlhf.policy.rewards import Targets, equals_target, share_of_target
from rljax.rlhf.recipes import (
    InstructGPTData,
    InstructGPTSettings,
    Mixture,
    R1Data,
    R1Settings,
    RewardedPrompts,
    Stages,
    Training,
    Tulu3Data,
    Tulu3Settings,
    instructgpt,
    r1,
    reward_by_kind,
    tulu3,
)
from rljax.rlhf.recipes.prompts import judged_pairs, sample_each
from rljax.training.run_folder import RunOptions

MODULE = Transformer(
    TransformerConfig(
        vocab_size=7, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
        num_kv_heads=1, head_dim=8, max_length=8,
    )
)  # fmt: skip
STOP, T = 6, 3
IDS = jnp.arange(8, dtype=jnp.int32)[:, None] % 6
ONES = jnp.ones(8, jnp.int32)
TARGETS = Targets(jnp.pad(IDS, ((0, 0), (0, 1)), constant_values=STOP), 2 * ONES)
RIGHT = RewardedPrompts(IDS, ONES, share_of_target, TARGETS)
ROWS = Completions(jnp.concatenate([IDS, TARGETS.ids], axis=1), 3 * ONES, ONES)
STEPS = {"num_updates": 2}


@functools.cache
def first_params():
    ids = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: MODULE.init(key, ids, method="logits")["params"])
    return init(jax.random.key(0))


def evaluate(params, start):
    samples = sample_held_out(
        MODULE, params, start, IDS, ONES, jax.random.key(9), max_new_tokens=T,
        stop_ids=(STOP,),
    )  # fmt: skip
    scores = RIGHT.scores(samples)
    return {"share": scores, "kl": np.asarray(divergences(samples))}


def sft(improves="share"):
    config = SFTConfig(batch_size=4, trainable=LastLayers(1))
    return Training(
        config=config, hyperparams=SFTHyperparams(), improves=improves, **STEPS
    )


def rl():
    method, hyperparams = policy.rloo()
    config = policy.PolicyConfig(
        method=method, num_prompts=2, group_size=2, max_new_tokens=T, stop_ids=(STOP,)
    )
    return Training(config=config, hyperparams=hyperparams, improves="share", **STEPS)


def run_tulu3(stages):
    dpo = Training(
        config=DirectConfig(batch_size=2), hyperparams=DirectHyperparams(),
        improves="share", **STEPS,
    )  # fmt: skip
    settings = Tulu3Settings(sft=sft(), dpo=dpo, rlvr=rl())
    data = Tulu3Data(ROWS, RIGHT, RIGHT)
    key = jax.random.key(1)
    return tulu3(MODULE, first_params(), data, settings, stages, evaluate, key)


def run_instructgpt(stages):
    reward = Training(
        config=RewardConfig(batch_size=2), hyperparams=RewardHyperparams(),
        improves="accuracy", **STEPS,
    )  # fmt: skip
    settings = InstructGPTSettings(sft=sft(), reward=reward, rl=rl())
    data = InstructGPTData(ROWS, RIGHT, RIGHT, IDS, ONES)
    key = jax.random.key(1)
    return instructgpt(MODULE, first_params(), data, settings, stages, evaluate, key)


def run_r1(stages, threshold=0.3):
    settings = R1Settings(
        cold_start=sft(), reasoning=rl(), sft=sft(), mixed=rl(), threshold=threshold
    )
    kinds = jnp.arange(8, dtype=jnp.int32) % 2
    mixed = RewardedPrompts(
        IDS, ONES, reward_by_kind(equals_target, share_of_target),
        Mixture((TARGETS, TARGETS), kinds),
    )  # fmt: skip
    data = R1Data(ROWS, RIGHT, ROWS, mixed)
    return r1(
        MODULE, first_params(), data, settings, stages, evaluate, jax.random.key(1)
    )


STAGES = {
    run_tulu3: "pretrained sft pairs dpo rlvr",
    run_instructgpt: "pretrained sft comparisons held_out reward_model rl",
    run_r1: (
        "pretrained cold_start reasoning_rl rejection sft_control sft "
        "sft_over_control mixed_rl"
    ),
}


@pytest.mark.some_cases(1)
@pytest.mark.some_cases(1)  # tracing alone takes seconds
@pytest.mark.parametrize("recipe", STAGES, ids=lambda recipe: recipe.__name__)
def test_a_recipe_goes_through_its_stages_and_again_from_what_is_kept(recipe, tmp_path):
    ends = []
    for _ in range(2):
        stages = Stages(recipe.__name__, rl(), RunOptions(out=tmp_path / "run"))
        ends.append((recipe(stages), stages.table))
    (params, table), (again, same) = ends
    assert [row["stage"] for row in table] == STAGES[recipe].split()
    assert table == same
    jax.tree.map(np.testing.assert_array_equal, params, again)
    rows = {row["stage"]: row for row in table}
    first = stages.measured["pretrained"]
    np.testing.assert_allclose(first["kl"], 0.0, atol=1e-5)
    start = "cold_start" if recipe is run_r1 else "sft"
    assert rows[start]["before"] == pytest.approx(first["share"].mean())
    assert rows[start]["kl"] != 0.0
    # SFT of the last block alone leaves the first one as it was.
    last = [name for name in rows if "kl" in rows[name]][-1]
    assert rows[last]["before"] == rows["sft"]["share"] or last == "rlvr"


@pytest.mark.slow
def test_a_threshold_that_nothing_reaches_is_refused():
    stages = Stages("r1", rl(), RunOptions())
    with pytest.raises(ValueError, match="reward of at least 2, the highest is"):
        run_r1(stages, threshold=2.0)


def test_the_best_and_the_worst_are_a_pair():
    samples = sample_each(
        MODULE, first_params(), RIGHT, jax.random.key(2), 4, max_new_tokens=T,
        stop_ids=(STOP,),
    )  # fmt: skip
    assert samples.prompt_index.tolist() == np.repeat(np.arange(8), 4).tolist()
    assert samples.ids[:, 0].tolist() == np.repeat(np.arange(8) % 6, 4).tolist()
    scores = np.zeros(32)
    scores[4:8] = [0.0, 2.0, -1.0, 2.0]
    scores[30] = 1.0
    pairs = judged_pairs(samples, scores, 4)
    wanted = [[5, 6], [30, 28]]
    np.testing.assert_array_equal(pairs.ids, np.asarray(samples.ids)[wanted])
    np.testing.assert_array_equal(pairs.starts, np.ones((2, 2)))
    with pytest.raises(ValueError, match="got none among 8 prompts"):
        judged_pairs(samples, np.zeros(32), 4)


def test_each_prompt_has_the_reward_of_its_kind():
    samples = sample_each(
        MODULE, first_params(), RIGHT, jax.random.key(2), 2, max_new_tokens=T,
        stop_ids=(STOP,),
    )  # fmt: skip

    def number(params, samples):
        return params + samples.prompt_index.astype(jnp.float32)

    reward = reward_by_kind(number, share_of_target)
    kinds = jnp.array([0, 1] * 4, jnp.int32)
    found = reward(Mixture((10.0, TARGETS), kinds), samples)
    share = np.asarray(share_of_target(TARGETS, samples))
    index = np.repeat(np.arange(8), 2)
    np.testing.assert_allclose(found, np.where(index % 2, share, 10.0 + index))
    with pytest.raises(ValueError, match="2 rewards needs as many params, got 1"):
        reward(Mixture((1.0,), kinds), samples)
