"""Reinforcement learning from human feedback: rewards from a model, of whole completions."""
