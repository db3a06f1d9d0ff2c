"""Rewards of environments, learned from which of two segments somebody prefers.

`comparisons` cuts rollouts into segments, and has the simulated person; `network` the reward
model r(observation, action); `fitting` fits it to all comparisons; `learning` is the whole
loop, an `Algorithm` whose step is a round of comparing, fitting, and PPO on the learned
reward. May import `algorithms`, `training`'s layers below, and the losses of `rlhf.training`.

```python
env, task = rljax.Thermostat(), rljax.ThermostatParams()
networks = PreferenceNetworks(rljax.make_network(env, task), make_reward_network(env, task))
learner = preference_learning(env, networks, PreferenceConfig())
state = jax.jit(learner.init)(jax.random.key(0), PreferenceHyperparams(), task)
state = rljax.train(learner, state, task, num_updates=5)
```
"""

from rljax.rlhf.segments.comparisons import (
    CutSegments,
    Segment,
    SegmentPairs,
    add_pairs,
    cut_segments,
    draw_pairs,
    no_pairs,
    prefers_first,
)
from rljax.rlhf.segments.fitting import fit_reward, predicted_returns
from rljax.rlhf.segments.learning import (
    PreferenceConfig,
    PreferenceHyperparams,
    PreferenceNetworks,
    PreferenceState,
    preference_learning,
    true_reward,
)
from rljax.rlhf.segments.network import RewardNetwork, make_reward_network

__all__ = [
    "CutSegments",
    "PreferenceConfig",
    "PreferenceHyperparams",
    "PreferenceNetworks",
    "PreferenceState",
    "RewardNetwork",
    "Segment",
    "SegmentPairs",
    "add_pairs",
    "cut_segments",
    "draw_pairs",
    "fit_reward",
    "make_reward_network",
    "no_pairs",
    "predicted_returns",
    "preference_learning",
    "prefers_first",
    "true_reward",
]
