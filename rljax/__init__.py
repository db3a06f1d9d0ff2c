"""JAX-accelerated vectorized environments and trainers, from CartPole to RLHF.

The names here are enough to train and use a policy; the modules hold the rest.
"""

from rljax.algorithms.ppo import PPOConfig, PPOHyperparams, PPOState, ppo
from rljax.base import (
    Algorithm,
    Environment,
    Mean,
    Metrics,
    TimeStep,
    Transition,
)
from rljax.engine import Totals, simulate
from rljax.envs.cartpole import CartPole, CartPoleParams, CartPoleState
from rljax.envs.checks import check_environment
from rljax.envs.thermostat import (
    Thermostat,
    ThermostatParams,
    ThermostatState,
    bang_bang,
)
from rljax.lanes import Lanes
from rljax.networks import ActorCritic, NormalActorCritic
from rljax.rollout import Episodes, Trajectory, episode, evaluate, record, unroll
from rljax.spaces import Box, Discrete
from rljax.sweep import population

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
    "Lanes",
    "Mean",
    "Metrics",
    "NormalActorCritic",
    "PPOConfig",
    "PPOHyperparams",
    "PPOState",
    "Thermostat",
    "ThermostatParams",
    "ThermostatState",
    "TimeStep",
    "Totals",
    "Trajectory",
    "Transition",
    "bang_bang",
    "check_environment",
    "episode",
    "evaluate",
    "population",
    "ppo",
    "record",
    "simulate",
    "unroll",
]
