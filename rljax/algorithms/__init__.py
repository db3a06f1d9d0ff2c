"""Learning algorithms, one module each, and the networks, loss terms and returns they share.

Imports `base` to `rollouts`. An algorithm is two pure functions, `rljax.Algorithm(init, step)`:
`init(key, hyperparams, task) -> state` and `step(state, task) -> (state, metrics)`. The state has an integer
field `step` and everything needed to continue; metrics are `Mean(total, weight)`, which pool exactly. Then
`train`, `population`, checkpoints and sweeps work. The smallest one, stochastic gradient descent:

```python
import jax, jax.numpy as jnp, rljax
from flax import struct


class State(struct.PyTreeNode):
    step: jax.Array
    x: jax.Array
    learning_rate: jax.Array


def init(key, hyperparams, task):
    return State(jnp.int32(0), jax.random.normal(key), jnp.float32(hyperparams))


def step(state, task):
    loss, slope = jax.value_and_grad(lambda x: (x - task) ** 2)(state.x)
    x = state.x - state.learning_rate * slope
    metrics = {"loss": rljax.Mean(loss, jnp.float32(1))}
    return state.replace(step=state.step + 1, x=x), metrics


learner, task = rljax.Algorithm(init, step), jnp.float32(3.0)
state = jax.jit(learner.init)(jax.random.key(0), 0.1, task)
state = rljax.train(learner, state, task, num_updates=100)
assert abs(state.x - 3) < 1e-3
```

A module of an algorithm, such as `ppo`, has `Config`, `Hyperparams`, `make(env, network, config)`,
`act(network, state, observation, key, *, greedy=False)` and `check_hyperparams(hyperparams)`, and can be given
to `rljax.sweeps.make_problem`. A complete one in one file is
`tests/algorithms/reinforce.py`. Add yours to the lists of `tests/test_contracts.py`, and solve
`tests/probes.py`.
"""

from rljax.algorithms.networks import ActorCritic, NormalActorCritic, make_network

__all__ = ["ActorCritic", "NormalActorCritic", "make_network"]
