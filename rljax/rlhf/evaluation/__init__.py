"""How good a reward model is: accuracy, calibration, and where it is right and wrong.

All of it is NumPy in float64, on the host, from scores that were computed before. Imports
`rljax.numerics` only; may import every other package of `rljax.rlhf`.
"""

from rljax.rlhf.evaluation.baselines import choose_length_rule, k_folds
from rljax.rlhf.evaluation.calibration import (
    Calibration,
    calibration,
    fit_temperature,
    negative_log_likelihood,
)
from rljax.rlhf.evaluation.comparisons import Comparisons, most_wrong
from rljax.rlhf.evaluation.ensembles import (
    ensemble_lower,
    ensemble_mean,
    ensemble_min,
    member_centres,
)
from rljax.rlhf.evaluation.evaluate import Evaluation, LengthOnly, evaluate_scores
from rljax.rlhf.evaluation.proportions import (
    Bin,
    Proportion,
    accuracy_by,
    proportion,
    wilson_interval,
    win_rate,
)
from rljax.rlhf.evaluation.texts import distinct_n, repetition

__all__ = [
    "Bin", "Calibration", "Comparisons", "Evaluation", "LengthOnly", "Proportion",
    "accuracy_by", "calibration", "choose_length_rule", "distinct_n", "ensemble_lower",
    "ensemble_mean", "ensemble_min", "evaluate_scores", "fit_temperature", "k_folds",
    "member_centres", "most_wrong", "negative_log_likelihood", "proportion", "repetition",
    "wilson_interval", "win_rate",
]  # fmt: skip
