"""The evaluation of a reward model as one self-contained HTML page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rljax.report.replay import fill_template
from rljax.rlhf.evaluation import Bin, Evaluation, Proportion
from rljax.training.files import write_atomically


class WrongPair(NamedTuple):
    """A pair whose scores are in the wrong order, to be shown.

    Attributes:
        preferred: the text that is preferred.
        other: the other one.
        scores: of the two, in this order, finite.
    """

    preferred: str
    other: str
    scores: tuple[float, float]


def save_reward_page(
    path: Path | str,
    evaluation: Evaluation,
    *,
    title: str,
    command: str,
    versions: Mapping[str, str],
    length_unit: str = "tokens",
    gap_name: str = "difference of the two ratings",
    wrong: Sequence[WrongPair] = (),
) -> None:
    """Writes accuracy, calibration, accuracy by this and that, and all figures.

    Args:
        path: where to write it.
        evaluation: from `rljax.rlhf.evaluation.evaluate_scores`.
        title: of the page.
        command: the command line that made it.
        versions: of packages, by name.
        length_unit: of the lengths, in the plural.
        gap_name: label of the axis of the ratings' gaps, with their unit.
        wrong: pairs to show with their texts, which readers must ask for, as these can be
            offensive; none by default. See `rljax.rlhf.evaluation.most_wrong`.

    Raises:
        ValueError: a score of a pair to be shown is not finite.
    """
    for pair in wrong:
        if not all(map(math.isfinite, pair.scores)):
            raise ValueError(
                f"a pair that is shown must have finite scores, got {pair.scores}. "
                f"Leave it out."
            )
    only, temperature = evaluation.length_only, evaluation.temperature
    data = {
        "accuracies": _accuracies(evaluation),
        "beside": only and _against(only.lead, only.lead_interval),
        "divided": "" if temperature == 1 else f" (scores / {temperature:.3g})",
        "reliability": list(map(_bin, evaluation.calibration.reliability)),
        "charts": _charts(evaluation, length_unit, gap_name),
        "figures": _figures(evaluation),
        "examples": [
            {"texts": [pair.preferred, pair.other], "scores": list(pair.scores)}
            for pair in wrong
        ],
        "command": command,
        "versions": list(versions.items()),
    }
    write_atomically(path, fill_template("reward.html", title, data))


def _accuracies(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Name and accuracy of the model, which is first, and of what it is compared with."""
    rows = [("the reward model", evaluation.accuracy)]
    if evaluation.length_only is not None:
        rows.append(("the longer is better", evaluation.length_only.longer))
        rows.append(("the shorter is better", evaluation.length_only.shorter))
    for name, accuracy in evaluation.ensemble:
        rows.append((f"ensemble, {name.replace('_', ' ')}", accuracy))
    return [{"name": name} | _proportion(accuracy) for name, accuracy in rows]


def _charts(
    evaluation: Evaluation, length_unit: str, gap_name: str
) -> list[dict[str, Any]]:
    lines = "Dashed: 50 %; dotted: all pairs. About as many pairs in each bin."
    charts = [
        (
            "Accuracy by length",
            f"preferred minus other completion, {length_unit}",
            f"Higher on the right: the model favours what is longer. {lines}",
            evaluation.by_length,
        ),
        (
            "Accuracy by rating gap",
            gap_name,
            f"Near ties are hard for judges too. {lines}",
            evaluation.by_gap,
        ),
        (
            "Accuracy by the ensemble's spread",
            "standard deviation of the members' score differences",
            f"Falls to the right if members disagree where they are wrong. {lines}",
            evaluation.by_spread,
        ),
    ]
    return [
        {"title": title, "xlabel": xlabel, "note": note, "bins": list(map(_bin, bins))}
        for title, xlabel, note, bins in charts
        if bins
    ]


def _figures(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each figure, as words."""
    seen, only = evaluation.calibration, evaluation.length_only
    count, ties = evaluation.accuracy.num_pairs, evaluation.ties
    rows = [
        ("pairs", f"{count:,}", f"{ties:,} of them tied: these count one half"),
        (
            "pair accuracy",
            _share(evaluation.accuracy),
            "how often a judge agrees with the scores' order, with a 95 % interval",
        ),
    ]
    if evaluation.bound < 1:
        meaning = "of whoever knows how likely each judgement is: nothing can do better"
        rows.append(("highest possible", f"{100 * evaluation.bound:.1f} %", meaning))
    if only is not None:
        chosen = "chosen on other pairs" if only.chosen_before else "better on these"
        rule = f"the {only.rule} is better, {chosen}"
        rows.append(("length alone", _share(only.baseline), rule))
    rows += [
        (
            "ECE",
            f"{seen.ece:.4f}",
            "mean gap between confidence and accuracy over bins of equal width; a "
            f"perfect model would show about {seen.ece_by_chance:.4f} here by chance",
        ),
        ("Brier score", f"{seen.brier:.4f}", "0.25 is that of a coin; lower is better"),
        (
            "negative log-likelihood",
            f"{seen.nll:.4f}",
            f"in nats; {math.log(2):.4f} is that of a coin",
        ),
        ("fitted temperature", f"{seen.temperature:.3g}", _advice(seen.temperature)),
        (
            "negative log-likelihood with it",
            f"{seen.nll_at_temperature:.4f}",
            "the least that any temperature gives on these pairs",
        ),
    ]
    return rows


def _advice(temperature: float) -> str:
    if temperature == 0:
        return "every pair is in the right order, so that no score is too sure"
    if math.isinf(temperature):
        return "the scores predict no better than a coin at any temperature"
    side = "too sure" if temperature > 1.05 else "not sure enough"
    side = "about right" if 0.95 < temperature <= 1.05 else side
    return f"by which to divide the scores; as they are, they are {side}"


def _share(accuracy: Proportion) -> str:
    low, high = (100 * end for end in accuracy.interval)
    return f"{100 * accuracy.share:.1f} % [{low:.1f}, {high:.1f}]"


def _against(lead: float, interval: tuple[float, float]) -> str:
    low, high = (100 * end for end in interval)
    more = f"{100 * lead:+.1f} [{low:.1f}, {high:.1f}]"
    return f"{more} percentage points against length alone"


def _proportion(accuracy: Proportion) -> dict[str, Any]:
    return accuracy._asdict()


def _bin(one: Bin) -> dict[str, Any]:
    return one._asdict() | {"accuracy": _proportion(one.accuracy)}
