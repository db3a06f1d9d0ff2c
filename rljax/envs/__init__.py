"""Environments, and the conformance test for a user's own."""

from rljax.envs.cartpole import CartPole, CartPoleParams, CartPoleState
from rljax.envs.checks import check_environment

__all__ = ["CartPole", "CartPoleParams", "CartPoleState", "check_environment"]
