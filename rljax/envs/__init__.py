"""Environments, and the conformance test for a user's own."""

from rljax.envs.cartpole import CartPole, CartPoleParams, CartPoleState
from rljax.envs.conformance import check_environment
from rljax.envs.thermostat import (
    HARD_PLANT,
    Thermostat,
    ThermostatParams,
    ThermostatState,
    bang_bang,
)

__all__ = [
    "HARD_PLANT",
    "CartPole",
    "CartPoleParams",
    "CartPoleState",
    "Thermostat",
    "ThermostatParams",
    "ThermostatState",
    "bang_bang",
    "check_environment",
]
