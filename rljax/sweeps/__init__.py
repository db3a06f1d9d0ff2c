"""Sweeps: many configurations x seeds of one algorithm, trained as populations.

`grid` and `random_points` make configurations, `make_problem` their problem,
`sweep` trains them all and returns their `Results`, `search` has Optuna propose them.
The algorithm's module is an argument. May import everything down to `rljax.training`,
and never `rljax.report` or `rljax.rlhf`.
"""

from rljax.sweeps.optuna_search import search, trained
from rljax.sweeps.points import LogUniform, OneOf, Uniform, grid, random_points
from rljax.sweeps.problem import Problem, make_problem
from rljax.sweeps.results import Results
from rljax.sweeps.runner import Sweep, sweep

__all__ = [
    "LogUniform",
    "OneOf",
    "Problem",
    "Results",
    "Sweep",
    "Uniform",
    "grid",
    "make_problem",
    "random_points",
    "search",
    "sweep",
    "trained",
]
