"""Plays Gymnasium's CartPole-v1 and records it in float64, for `test_cartpole.py`.

Writes `cartpole.json` beside this file, the same for the same Gymnasium. By hand:

    .venv/bin/python tests/golden/make_cartpole.py

An episode of T steps is a dictionary of what it was played with (`semi_implicit`,
`plant`, `policy`, `seed`, `max_steps`) and of what happened: `states` (T + 1 of them),
`actions`, `rewards`, `terminated` and `truncated` (T of each).
"""

import itertools
import json
import pathlib

import numpy as np

PLANTS = ({}, {"masscart": 0.7, "masspole": 0.3, "length": 0.8})
VARIANTS = tuple(itertools.product((False, True), PLANTS))
POLICIES = {
    "random": lambda state, rng: rng.integers(2),
    "balance": lambda state, rng: state @ (0.1, 0.3, 3.0, 1.0) > 0,
    # Chase a pole kept leaning, until the cart runs off the track.
    "run left": lambda state, rng: state @ (0.0, 0.0, 3.0, 1.0) > -0.4,
    "run right": lambda state, rng: state @ (0.0, 0.0, 3.0, 1.0) > 0.4,
}


def main():
    episodes = [episode for variant in VARIANTS for episode in reference(*variant)]
    lines = ",\n".join(json.dumps(episode, allow_nan=False) for episode in episodes)
    path = pathlib.Path(__file__).with_name("cartpole.json")
    path.write_text(f"[\n{lines}\n]\n")


def reference(semi_implicit, plant):
    """The recorded episodes of one variant; one variant's balancing is kept whole."""
    whole = (semi_implicit, plant) == VARIANTS[0]
    fallen = [play(semi_implicit, plant, "random", seed) for seed in range(3)]
    return [
        *fallen,
        fall_at_the_limit(fallen[0]),
        play(semi_implicit, plant, "run left" if semi_implicit else "run right", 3),
        play(semi_implicit, plant, "balance", 4, max_steps=500 if whole else 40),
    ]


def fall_at_the_limit(episode):
    """Plays `episode` again with a limit that makes its last step end it both ways."""
    names = ("semi_implicit", "plant", "policy", "seed")
    return play(*(episode[name] for name in names), max_steps=len(episode["actions"]))


def play(semi_implicit, plant, policy, seed, max_steps=500):
    """Plays one episode; `plant` overrides masses and lengths."""
    import gymnasium  # here, so that the tests can be collected without it

    env = gymnasium.make(
        "CartPole-v1", max_episode_steps=max_steps, disable_env_checker=True
    )
    inner = env.unwrapped
    for name, value in plant.items():
        assert hasattr(inner, name)
        setattr(inner, name, value)
    inner.total_mass = inner.masspole + inner.masscart
    inner.polemass_length = inner.masspole * inner.length
    inner.kinematics_integrator = "semi-implicit euler" if semi_implicit else "euler"

    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    states, actions, rewards, terminated, truncated = (
        [inner.state.tolist()],
        [],
        [],
        [],
        [],
    )
    while not actions or not (terminated[-1] or truncated[-1]):
        action = int(POLICIES[policy](inner.state, rng))
        _, reward, fell, timed_out, _ = env.step(action)
        states.append(inner.state.tolist())
        actions.append(action)
        rewards.append(reward)
        terminated.append(fell)
        truncated.append(timed_out)
    return {
        "semi_implicit": semi_implicit,
        "plant": plant,
        "policy": policy,
        "seed": seed,
        "max_steps": max_steps,
        "states": states,
        "actions": actions,
        "rewards": rewards,
        "terminated": terminated,
        "truncated": truncated,
    }


if __name__ == "__main__":
    main()
