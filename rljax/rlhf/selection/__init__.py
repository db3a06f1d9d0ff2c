"""Choosing among sampled completions by their scores: best of n, and rejection sampling.

All of it is NumPy on the host, in float64, from scores that were computed before:

    rows = take(samples, best_per_prompt(scores, prompts))      # to fine-tune on
    others = take(samples, matched_control(key, chosen, prompts))

May import `rljax.rlhf.data` and what lies between it and this package.
"""

from rljax.rlhf.selection.best_of_n import (
    best_of_n,
    best_of_n_kl_bound,
    best_of_n_law,
    best_of_n_means,
)
from rljax.rlhf.selection.rejection import (
    best_per_prompt,
    matched_control,
    scored_at_least,
    take,
    top_overall,
)

__all__ = [
    "best_of_n", "best_of_n_kl_bound", "best_of_n_law", "best_of_n_means",
    "best_per_prompt", "matched_control", "scored_at_least", "take", "top_overall",
]  # fmt: skip
