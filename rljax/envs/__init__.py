"""Environments, their spaces and pictures, stepping many at once, and the conformance test.

An environment is a frozen dataclass of four pure functions, `rljax.base.Environment`, for one
unbatched state; it never resets and never jits. Imports `base` and `numerics`. A new one:

```python
import dataclasses, jax, jax.numpy as jnp
from flax import struct
from rljax import Box, Discrete, TimeStep
from rljax.envs import drawing


class WalkParams(struct.PyTreeNode):
    goal: float = 3.0
    max_steps: int = 20


class WalkState(struct.PyTreeNode):
    x: jax.Array
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class Walk:
    def reset(self, key, params):
        x = jax.random.uniform(key, (), jnp.float32, minval=-1.0)
        return WalkState(x, time=jnp.int32(0)), x[None]

    def step(self, key, state, action, params):
        state = WalkState(state.x + jnp.where(action == 1, 0.5, -0.5), state.time + 1)
        reward, terminated = -jnp.abs(state.x - params.goal), jnp.abs(state.x) > 10.0
        truncated = state.time >= params.max_steps
        return state, TimeStep(state.x[None], reward, terminated, truncated)

    def observation_space(self, params):
        return Box(-11.0, 11.0, (1,))

    def action_space(self, params):
        return Discrete(2)

    def draw(self, state, action, params):  # optional: replays and Gymnasium's render
        goal = drawing.Circle(params.goal, 0, 0.3, "#8fcf97")
        return drawing.Picture(-11, -1, 11, 1, [goal, drawing.Circle(state.x, 0, 0.2)])


# Check it, train on it, watch it, use it from Gymnasium (pip install 'rljax[viz,gym]'):
import rljax
from rljax.algorithms import ppo
from rljax.interop.gymnasium import GymnasiumEnv
from rljax.report.policy_replay import play_policies, save_replay

env, params, network = Walk(), WalkParams(), rljax.ActorCritic(num_actions=2)
rljax.check_environment(env, params, jax.random.key(0))
learner = rljax.ppo(env, network, rljax.PPOConfig())
state = jax.jit(learner.init)(jax.random.key(0), rljax.PPOHyperparams(), params)
state = rljax.train(learner, state, params, num_updates=20)
policies = {"trained": lambda observation, key: ppo.act(network, state, observation, key)}
episodes = play_policies(jax.random.key(1), env, params, policies, max_steps=20)
save_replay(".", env, params, episodes, steps_per_second=5.0)  # replay.html, replay.gif
gymnasium_env = GymnasiumEnv(env, params, render_mode="rgb_array")
```

A reward is part of `step`; its numbers in `params` can be swept. `GymnasiumVectorEnv` has Gymnasium's three
auto-reset modes, and `rljax.interop.stable_baselines3` is a `VecEnv`.

- Spaces are `Box`, `Discrete`, `MultiDiscrete`, and dictionaries and tuples of them;
  `rljax.make_network(env, params)` is a policy and value for any: images through convolutions, the rest
  flattened. Actions of a bounded `Box` are squashed into it.
- An observation `{"observation": ..., "action_mask": bool[n]}` says which discrete actions are allowed.
- `PPOConfig(normalize_observations=True, normalize_rewards=True)` for numbers of any scale.
- `ParamsPerEnv(rljax.stack(params, goal=[1.0, 2.0]))` gives every copy parameters of its own;
  `Randomized(env, sample_params)` draws them anew at each reset.
- `LearnedReward(env, model)` is the environment with a reward model's reward, whose weights are in
  `params`; `rljax.rlhf.segments` learns one from preferences.
- A network of your own is any Flax module with `policy`, `value` and both at once:

```python
import flax.linen as nn
from rljax.algorithms.distributions import Categorical


class ImageActorCritic(nn.Module):
    num_actions: int

    def setup(self):
        self.conv, self.dense = nn.Conv(16, (3, 3), strides=(2, 2)), nn.Dense(64)
        self.actor, self.critic = nn.Dense(self.num_actions), nn.Dense(1)

    def features(self, image):  # [..., height, width, channels]
        x = nn.relu(self.conv(image / 255))
        return nn.tanh(self.dense(x.reshape(*x.shape[:-3], -1)))

    def policy(self, image):
        return Categorical(self.actor(self.features(image)))

    def value(self, image):
        return self.critic(self.features(image))[..., 0]

    def __call__(self, image):
        return self.policy(image), self.value(image)
```

Optional methods, such as `step_from_noise`, count only in the class that defines the method they stand for.
"""

from rljax.envs.cartpole import CartPole, CartPoleParams, CartPoleState
from rljax.envs.conformance import check_environment
from rljax.envs.learned_reward import LearnedReward, LearnedRewardParams
from rljax.envs.spaces import Box, Discrete, MultiDiscrete
from rljax.envs.thermostat import (
    HARD_PLANT,
    Thermostat,
    ThermostatParams,
    ThermostatState,
    bang_bang,
)
from rljax.envs.variation import ParamsPerEnv, Randomized
from rljax.envs.vector import VectorEnv, VectorState

__all__ = [
    "HARD_PLANT",
    "Box",
    "CartPole",
    "CartPoleParams",
    "CartPoleState",
    "Discrete",
    "LearnedReward",
    "LearnedRewardParams",
    "MultiDiscrete",
    "ParamsPerEnv",
    "Randomized",
    "Thermostat",
    "ThermostatParams",
    "ThermostatState",
    "VectorEnv",
    "VectorState",
    "bang_bang",
    "check_environment",
]
