"""Learning algorithms: one file each, read top to bottom."""

from rljax.algorithms.ppo import PPOConfig, PPOHyperparams, PPOState, ppo

__all__ = ["PPOConfig", "PPOHyperparams", "PPOState", "ppo"]
