"""Beside other libraries, each in a virtual environment of its own: `make test-peers`.

A test's name begins with the environment in which it runs.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rljax.envs import CartPole, CartPoleParams, Thermostat, ThermostatParams

pytestmark = pytest.mark.peers

CASES = [(CartPole(), CartPoleParams()), (Thermostat(), ThermostatParams())]


@pytest.mark.parametrize(("env", "params"), CASES)
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_sb3s_own_checks_pass(env, params, render_mode):
    from stable_baselines3.common.env_checker import check_env

    from rljax.interop.gymnasium import GymnasiumEnv

    check_env(GymnasiumEnv(env, params, render_mode=render_mode))


@pytest.mark.parametrize("vectorized", [False, True])
def test_sb3s_ppo_solves_our_cartpole(vectorized):
    """With RL Zoo's settings: 8 environments, 100,000 steps."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    from rljax.interop.gymnasium import GymnasiumEnv
    from rljax.interop.stable_baselines3 import StableBaselines3Env

    torch.set_num_threads(1)  # more of them wait for one another on nets this small

    def make():
        return GymnasiumEnv(CartPole(), CartPoleParams())

    ours = StableBaselines3Env(CartPole(), CartPoleParams(), 8)
    learner = PPO(
        "MlpPolicy",
        ours if vectorized else make_vec_env(make, n_envs=8, seed=0),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        seed=0,
        device="cpu",
    )
    learner.learn(100_000)
    test = make_vec_env(make, n_envs=8, seed=1)
    mean, _ = evaluate_policy(learner, test, n_eval_episodes=100)
    assert mean >= 475


def test_sb3_is_told_how_episodes_end():
    from rljax.interop.stable_baselines3 import StableBaselines3Env

    env = StableBaselines3Env(CartPole(), CartPoleParams(max_steps=12), 8)
    env.seed(3)
    first = env.reset()
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    before, kinds = first, set()
    for t in range(1, 40):
        actions = np.full(8, t % 2 if t > 12 else 1)
        observation, rewards, ended, infos = env.step(actions)
        assert (rewards == 1).all()
        for i in np.flatnonzero(ended):
            last, by_time = (
                infos[i]["terminal_observation"],
                infos[i]["TimeLimit.truncated"],
            )
            fallen = abs(last[2]) > CartPoleParams().theta_threshold_radians
            assert by_time == (not fallen)
            assert np.abs(last - before[i]).max() < 2  # one step further, no start
            assert np.abs(observation[i]).max() <= 0.05  # a start
            kinds.add(by_time)
        assert all(not infos[i] for i in np.flatnonzero(~ended))
        before = observation
    assert kinds == {True, False}


def test_sb3_learns_several_choices_from_a_dictionary_with_a_mask():
    from stable_baselines3 import PPO
    from test_spaces_learned import ObliviousPair

    from rljax.interop.stable_baselines3 import StableBaselines3Env

    env = StableBaselines3Env(ObliviousPair(), None, 4)
    observation = env.reset()
    assert env.has_attr("action_masks")  # asked by sb3-contrib
    masks = np.stack(env.env_method("action_masks"))
    np.testing.assert_array_equal(masks, observation["action_mask"])
    assert masks.sum(axis=1).tolist() == [2] * 4
    best = np.stack([masks[:, :2].argmax(1), masks[:, 2:].argmax(1)], axis=1)
    assert env.step(best)[1].tolist() == [1.0] * 4
    PPO("MultiInputPolicy", env, n_steps=8, batch_size=32, device="cpu").learn(64)
    plain = StableBaselines3Env(CartPole(), CartPoleParams(), 2)
    assert not plain.has_attr("action_masks")


def test_gymnaxs_cartpole_steps_as_ours():
    assert_gymnax_steps_as_we_do()


@pytest.mark.filterwarnings("ignore:jax.core.pytype_aval_mappings is deprecated")
def test_rejaxs_cartpole_steps_as_ours():
    """In the older gymnax with which rejax works."""
    import rejax  # noqa: F401

    assert_gymnax_steps_as_we_do()


def assert_gymnax_steps_as_we_do():
    import gymnax

    theirs, their_params = gymnax.make("CartPole-v1")
    env, params = CartPole(), CartPoleParams()
    high = np.array([2.0, 3.0, 0.2, 3.0])
    values = np.random.default_rng(0).uniform(-high, high, (1000, 4)).astype("f")
    names = "x", "x_dot", "theta", "theta_dot"
    placed = dict(zip(names, values.T, strict=True), time=np.full(1000, 3, np.int32))
    keys = jax.random.split(jax.random.key(0), 6)
    state = env.reset(keys[0], params)[0].replace(**placed)
    their_state = theirs.reset_env(keys[1], their_params)[1].replace(**placed)
    for action in (0, 1):
        _, ours = jax.vmap(env.step, in_axes=(None, 0, None, None))(
            keys[2 + action], state, action, params
        )
        observation, _, reward, *_ = jax.vmap(
            theirs.step_env, in_axes=(None, 0, None, None)
        )(keys[4 + action], their_state, action, their_params)
        np.testing.assert_allclose(ours.observation, observation, atol=1e-5)
        np.testing.assert_array_equal(ours.reward, reward)


@pytest.mark.parametrize(
    "family", ["gemma2", "gpt2", "llama", "llama3", "mistral", "qwen2", "qwen3"]
)
def test_transformers_reads_what_we_write(family, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from rljax.rlhf.pretrained import weights

    golden = Path(__file__).parent / "golden" / "pretrained"
    for kind, load, save, auto in (
        (
            "lm",
            weights.load_language_model,
            weights.save_language_model,
            AutoModelForCausalLM,
        ),
        (
            "reward",
            weights.load_reward_model,
            weights.save_reward_model,
            AutoModelForSequenceClassification,
        ),
    ):
        save(tmp_path / kind, *load(golden / f"{family}-{kind}"))
        expected = json.loads((golden / f"{family}-{kind}" / "golden.json").read_text())
        model, report = auto.from_pretrained(
            tmp_path / kind, output_loading_info=True, dtype=torch.float32
        )
        assert not any(report.values())
        with torch.inference_mode():
            if kind == "lm":
                out = model.eval()(torch.tensor([expected["ids"]])).logits[0].numpy()
            else:
                rows = zip(expected["ids"], expected["lengths"], strict=True)
                out = [
                    model.eval()(torch.tensor([ids[:n]])).logits.item()
                    for ids, n in rows
                ]
        np.testing.assert_allclose(out, expected["out"], rtol=0, atol=2e-5)
