"""JAX-accelerated vectorized environments and trainers, from CartPole to RLHF.

The names here are enough to train and use a policy; the modules hold the rest.
"""

from rljax.algorithms.networks import ActorCritic, NormalActorCritic, make_network
from rljax.algorithms.ppo import PPOConfig, PPOHyperparams, PPOState, ppo
from rljax.base import Algorithm, Environment, Mean, Metrics, TimeStep, Transition
from rljax.envs.cartpole import CartPole, CartPoleParams, CartPoleState
from rljax.envs.conformance import check_environment
from rljax.envs.spaces import Box, Discrete, MultiDiscrete
from rljax.envs.thermostat import (
    Thermostat,
    ThermostatParams,
    ThermostatState,
    bang_bang,
)
from rljax.envs.variation import ParamsPerEnv, Randomized
from rljax.envs.vector import VectorEnv, VectorState
from rljax.numerics.sharding import make_mesh
from rljax.rollouts.rollout import (
    Episodes,
    Trajectory,
    episode,
    evaluate,
    record,
    unroll,
)
from rljax.rollouts.simulation import Totals, simulate
from rljax.training.loop import train
from rljax.training.populations import population, stack
from rljax.training.sharded import sharded

__version__ = "0.1.0"

__all__ = [
    "ActorCritic",
    "Algorithm",
    "Box",
    "CartPole",
    "CartPoleParams",
    "CartPoleState",
    "Discrete",
    "Environment",
    "Episodes",
    "Mean",
    "Metrics",
    "MultiDiscrete",
    "NormalActorCritic",
    "PPOConfig",
    "PPOHyperparams",
    "PPOState",
    "ParamsPerEnv",
    "Randomized",
    "Thermostat",
    "ThermostatParams",
    "ThermostatState",
    "TimeStep",
    "Totals",
    "Trajectory",
    "Transition",
    "VectorEnv",
    "VectorState",
    "bang_bang",
    "check_environment",
    "episode",
    "evaluate",
    "make_mesh",
    "make_network",
    "population",
    "ppo",
    "record",
    "sharded",
    "simulate",
    "stack",
    "train",
    "unroll",
]
