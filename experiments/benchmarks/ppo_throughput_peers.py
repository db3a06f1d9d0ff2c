"""The peers' side of ppo_throughput.py; runs in the environment that has one of them.

python ppo_throughput_peers.py SYSTEM SETTING_AS_JSON
"""

import json
import sys
import time


def rejax(s):
    """Compiled ahead, without evaluations; agents by vmap, as its documentation has it."""
    import jax
    from rejax import PPO

    batch = s["num_envs"] * s["num_steps"]
    steps = s["total_steps"] // batch * batch
    agent = PPO.create(
        env="CartPole-v1",
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
        **{
            name: s[name]
            for name in (
                "num_envs", "num_steps", "num_epochs", "num_minibatches", "learning_rate",
                "gamma", "gae_lambda", "clip_eps", "vf_coef", "ent_coef", "max_grad_norm",
            )
        },
    )  # fmt: skip
    agent = agent.replace(eval_callback=lambda algorithm, state, key: ())
    train, keys = agent.train, jax.random.key(0)
    if s["num_agents"] > 1:
        train, keys = jax.vmap(train), jax.random.split(keys, s["num_agents"])
    started = time.perf_counter()
    program = jax.jit(train).lower(keys).compile()
    seconds_compile, times = time.perf_counter() - started, []
    for _ in range(2):
        started = time.perf_counter()
        jax.block_until_ready(program(keys))
        times.append(time.perf_counter() - started)
    return s["num_agents"] * steps / min(times), seconds_compile


def sb3(s):
    """Its own vector environment, one thread: more only wait for one another."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    batch = s["num_envs"] * s["num_steps"]
    agent = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=s["num_envs"], seed=0),
        n_steps=s["num_steps"],
        batch_size=batch // s["num_minibatches"],
        n_epochs=s["num_epochs"],
        learning_rate=s["learning_rate"],
        ent_coef=s["ent_coef"],
        clip_range_vf=s["vf_clip_eps"],
        seed=0,
        device="cpu",
    )
    agent.learn(batch)
    steps = max(1, s["total_steps"] // batch) * batch
    started = time.perf_counter()
    agent.learn(steps)
    return steps / (time.perf_counter() - started), 0.0


if __name__ == "__main__":
    system, setting = sys.argv[1], json.loads(sys.argv[2])
    rate, seconds = globals()[system](setting)
    row = {"system": system, "num_agents": setting["num_agents"]}
    row |= {"steps_per_second": rate, "seconds_compile": seconds}
    print(json.dumps(row))
