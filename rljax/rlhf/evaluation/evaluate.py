"""All figures of a reward model's scores on pairs that were judged."""

import dataclasses
import math
from typing import Any

import numpy as np

from rljax.rlhf.evaluation.baselines import LengthRule, length_credits
from rljax.rlhf.evaluation.calibration import Calibration, calibration
from rljax.rlhf.evaluation.comparisons import Comparisons, credits
from rljax.rlhf.evaluation.ensembles import (
    ensemble_lower,
    ensemble_mean,
    ensemble_min,
    member_centres,
)
from rljax.rlhf.evaluation.proportions import Bin, Proportion, accuracy_by, proportion


@dataclasses.dataclass(frozen=True)
class LengthOnly:
    """How far length alone comes.

    Attributes:
        longer: accuracy of "the longer is better", a tie counting one half.
        shorter: of "the shorter is better": 1 minus that.
        rule: which of the two is the baseline.
        chosen_before: that rule was chosen on other pairs; else it is the better one of
            these, which flatters the baseline a little.
        lead: the model's accuracy minus the baseline's.
        lead_interval: its 95 % interval, from the differences pair by pair.
    """

    longer: Proportion
    shorter: Proportion
    rule: LengthRule
    chosen_before: bool
    lead: float
    lead_interval: tuple[float, float]

    @property
    def baseline(self) -> Proportion:
        """The accuracy of the rule."""
        return self.longer if self.rule == "longer" else self.shorter


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How good a reward model is on a set of pairs, and how sure that is.

    Attributes:
        accuracy: how often a judge agrees with the scores' order, over the whole set;
            equal scores count one half.
        bound: the accuracy of whoever knows the probabilities: 1 if these are 0 or 1.
        ties: pairs whose scores are equal.
        calibration: of the difference of scores.
        temperature: by which the difference was divided first.
        by_length: accuracy by how much longer the preferred completion is than the other;
            pairs of which neither is preferred are left out. Empty without lengths.
        by_gap: by the difference of the ratings. Empty without them.
        by_spread: by how much the members of the ensemble disagree. Empty without them.
        length_only: the baseline; None without lengths.
        ensemble: accuracy of the members' "mean", "min" and "mean_minus_std", centred.
    """

    accuracy: Proportion
    bound: float
    ties: int
    calibration: Calibration
    temperature: float = 1.0
    by_length: tuple[Bin, ...] = ()
    by_gap: tuple[Bin, ...] = ()
    by_spread: tuple[Bin, ...] = ()
    length_only: LengthOnly | None = None
    ensemble: tuple[tuple[str, Proportion], ...] = ()

    def row(self) -> dict[str, Any]:
        """Returns the headline figures, as strict JSON has them: inf is null."""
        seen, only = self.calibration, self.length_only
        figures: dict[str, Any] = {
            "pair_accuracy": self.accuracy.share,
            "pair_accuracy_ci95": list(self.accuracy.interval),
            "pair_accuracy_bound": self.bound,
            "pairs": self.accuracy.num_pairs,
            "ties": self.ties,
            "ece": seen.ece,
            "ece_by_chance": seen.ece_by_chance,
            "brier": seen.brier,
            "nll": seen.nll,
            "fitted_temperature": _finite(seen.temperature),
            "nll_at_temperature": seen.nll_at_temperature,
        }
        if only is not None:
            figures |= {
                "length_only_rule": only.rule,
                "length_only_accuracy": only.baseline.share,
                "length_only_ci95": list(only.baseline.interval),
                "longer_accuracy": only.longer.share,
                "shorter_accuracy": only.shorter.share,
                "lead_over_length": only.lead,
                "lead_over_length_ci95": list(only.lead_interval),
            }
        for name, accuracy in self.ensemble:
            figures[f"ensemble_{name}_accuracy"] = accuracy.share
            figures[f"ensemble_{name}_ci95"] = list(accuracy.interval)
        return figures


def evaluate_scores(
    comparisons: Comparisons,
    *,
    temperature: float = 1.0,
    length_rule: LengthRule | None = None,
    centres: np.ndarray | None = None,
    num_confidence_bins: int = 10,
    num_bins: int = 5,
) -> Evaluation:
    """Returns accuracy, calibration, and where a reward model is right and wrong.

    Args:
        comparisons: scores of pairs, and what else is known of these.
        temperature: by which differences of scores are divided before they are read as
            log-odds, above 0; fit it on other pairs, see `fit_temperature`.
        length_rule: of the baseline, from `choose_length_rule` on training pairs; unless
            given, whichever is better on these.
        centres: `[M]`, see `member_centres`; the members' means on these pairs unless
            given.
        num_confidence_bins: of the calibration, equally wide from 1/2 to 1.
        num_bins: of the other bins, about equally full, at most.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> pairs = Comparisons.of([[1.0, 0.0], [2.0, 2.0], [0.0, 3.0], [1.0, -1.0]])
        >>> evaluate_scores(pairs).row()["pair_accuracy"]
        0.625
    """
    right, p = comparisons.credits, comparisons.probs
    lengths, gaps, members = (
        comparisons.lengths, comparisons.gaps, comparisons.members
    )  # fmt: skip
    by_length: tuple[Bin, ...] = ()
    if lengths is not None:
        judged = comparisons.preferred != 0
        longer = comparisons.preferred * (lengths[:, 0] - lengths[:, 1])
        by_length = accuracy_by(right[judged], longer[judged], num_bins=num_bins)
    ensemble: list[tuple[str, Proportion]] = []
    if members is not None:
        levels = member_centres(members) if centres is None else centres
        combined = {
            "mean": ensemble_mean(members, levels),
            "min": ensemble_min(members, levels),
            "mean_minus_std": ensemble_lower(members, levels),
        }
        for name, scores in combined.items():
            agreed = credits(scores[:, 0] - scores[:, 1], p)
            ensemble.append((name, proportion(agreed)))
    spreads = comparisons.spreads
    return Evaluation(
        accuracy=proportion(right),
        bound=float(np.maximum(p, 1 - p).mean()),
        ties=int((comparisons.differences == 0).sum()),
        calibration=calibration(
            comparisons.differences,
            p,
            temperature=temperature,
            num_bins=num_confidence_bins,
        ),
        temperature=temperature,
        by_length=by_length,
        by_gap=() if gaps is None else accuracy_by(right, gaps, num_bins=num_bins),
        by_spread=(
            () if spreads is None else accuracy_by(right, spreads, num_bins=num_bins)
        ),
        length_only=_length_only(comparisons, right, length_rule),
        ensemble=tuple(ensemble),
    )


def _length_only(
    comparisons: Comparisons, right: np.ndarray, rule: LengthRule | None
) -> LengthOnly | None:
    if comparisons.lengths is None:
        return None
    longer, shorter = (proportion(length_credits(comparisons, side)) for side in _RULES)
    better: LengthRule = "longer" if longer.share >= shorter.share else "shorter"
    chosen = better if rule is None else rule
    ahead = right - length_credits(comparisons, chosen)
    half = 1.96 * float(ahead.std()) / math.sqrt(len(ahead))
    lead = float(ahead.mean())
    return LengthOnly(
        longer, shorter, chosen, rule is not None, lead, (lead - half, lead + half)
    )


_RULES: tuple[LengthRule, LengthRule] = ("longer", "shorter")


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
