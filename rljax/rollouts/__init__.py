"""Playing a policy in many environments: to learn from, to evaluate it, to record it.

`unroll` collects `[T, B]` transitions, `evaluate` plays whole episodes, `record` keeps their states, and
`simulate` keeps totals only, of very many environments. `objectives` has J(pi) and log p(tau).
Imports `base`, `numerics` and `envs`.
"""

from rljax.rollouts.rollout import (
    Episodes,
    Trajectory,
    episode,
    evaluate,
    record,
    unroll,
)
from rljax.rollouts.simulation import Totals, simulate

__all__ = [
    "Episodes",
    "Totals",
    "Trajectory",
    "episode",
    "evaluate",
    "record",
    "simulate",
    "unroll",
]
