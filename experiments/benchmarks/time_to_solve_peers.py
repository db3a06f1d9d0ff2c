"""The peers' side of time_to_solve.py; runs in the environment that has one of them.

python time_to_solve_peers.py SYSTEM SEED
"""

import json
import sys
import time

TOTAL_STEPS, EPISODES = 100_000, 128


def rejax(seed):
    """RL Zoo's settings, as far as it has them: its learning rate stays."""
    import jax
    import jax.numpy as jnp
    from rejax import PPO

    agent = PPO.create(
        env="CartPole-v1",
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
        total_timesteps=TOTAL_STEPS,
        eval_freq=TOTAL_STEPS,
        skip_initial_evaluation=True,
        num_envs=8,
        num_steps=32,
        num_epochs=20,
        num_minibatches=1,
        learning_rate=1e-3,
        gamma=0.98,
        gae_lambda=0.8,
        clip_eps=0.2,
        ent_coef=0.0,
        max_grad_norm=0.5,
    )
    key = jax.random.key(seed)
    program = jax.jit(agent.train).lower(key).compile()
    started = time.perf_counter()
    _, (_, returns) = jax.block_until_ready(program(key))
    return float(jnp.mean(returns)), time.perf_counter() - started


def sb3(seed):
    """RL Zoo's settings for CartPole-v1."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)  # more of them wait for one another on nets this small
    started = time.perf_counter()
    agent = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        seed=seed,
        device="cpu",
    )
    agent.learn(TOTAL_STEPS)
    test = make_vec_env("CartPole-v1", n_envs=8, seed=seed + 1000)
    mean, _ = evaluate_policy(agent, test, n_eval_episodes=EPISODES)
    return float(mean), time.perf_counter() - started


if __name__ == "__main__":
    mean, seconds = globals()[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps({"return": mean, "seconds_run": seconds}))
