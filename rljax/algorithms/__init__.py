"""Learners: each module has one, as a pair of pure functions, and its policy `act`."""
