"""Rated texts: how they are divided, and the accuracy on all pairs of those tested on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rljax.rlhf.data.ratings import pairs_by_gap
from rljax.training.files import RunError


class Division(NamedTuple):
    """Numbers of texts: to learn from, to choose by, and to test on.

    Attributes:
        pairs: `[P, 2]` to learn from, the better text first.
        validation: `[V]`, none of them in pairs.
        test: `[U]`, none of them among the others.
    """

    pairs: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def divide(
    means: np.ndarray,
    *,
    num_splits: int,
    num_tested: int,
    num_seen: int,
    num_pairs: int,
    min_gap: float,
    seed: int,
) -> list[Division]:
    """Returns divisions of texts of mean ratings `[T]`; no two test on the same text.

    Args:
        means: `[T]`.
        num_splits: how many divisions.
        num_tested: texts to test on in each; as many others are to choose by.
        num_seen: texts that are never tested on, the same whatever the seed.
        num_pairs: pairs to learn from, whose ratings differ by more than `min_gap`.
        min_gap: see there.
        seed: of all but the texts that are tested on.
    """
    if num_seen + (num_splits + 1) * num_tested >= len(means):
        raise RunError(
            f"{len(means)} texts cannot be divided so: {num_seen} are not tested on, and "
            f"{num_splits} times {num_tested} are. Lower these numbers."
        )
    order, divisions = np.random.default_rng(7).permutation(len(means)), []
    for number in range(num_splits):
        held_out = num_seen + number * num_tested + np.arange(num_tested)
        rng = np.random.default_rng([seed, number])
        others = rng.permutation(np.delete(order, held_out))
        validation, learned = np.split(others, [num_tested])
        drawn = pairs_by_gap(
            means[learned],
            min_gap=min_gap,
            num_pairs=num_pairs,
            seed=int(rng.integers(2**31)),
        )
        test = order[held_out]
        divisions.append(Division(learned[drawn.places], validation, test))
    return divisions


class AllPairs:
    """All pairs of some texts whose mean ratings differ by more than a gap.

    Args:
        means: `[T]`, the texts' mean ratings.
        min_gap: what the difference is above.
    """

    def __init__(self, means: np.ndarray, min_gap: float):
        self.wanted = (means[:, None] - means[None] > min_gap).astype(np.float64)

    def credits(self, scores: np.ndarray) -> np.ndarray:
        """Returns `[T, T]`: 1 for each pair in the right order, 1/2 for each tie."""
        ahead = np.sign(scores[:, None] - scores[None])
        return self.wanted * (1 + ahead) / 2

    def accuracy(self, scores: np.ndarray) -> float:
        """Returns the share of the pairs in the right order of scores `[T]`."""
        return float(self.credits(scores).sum() / self.wanted.sum())


def mean_accuracy(
    pairs: Sequence[AllPairs], scores: Sequence[np.ndarray], *, resamples: int = 1_000
) -> dict[str, Any]:
    """Returns the mean accuracy over splits, each with its texts, and a 95 % interval.

    Pairs share texts, so that there are far fewer independent ones than pairs: it is the
    texts of each split that are resampled, with all their pairs.
    """
    drawn = [
        _resampled(some, found, resamples, seed)
        for seed, (some, found) in enumerate(zip(pairs, scores, strict=True))
    ]
    accuracies = [some.accuracy(s) for some, s in zip(pairs, scores, strict=True)]
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return {
        "pair_accuracy": float(np.mean(accuracies)),
        "pair_accuracy_ci95": [float(low), float(high)],
        "by_split": accuracies,
    }


def lead(pairs: AllPairs, scores: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """Returns by how much scores are more accurate than others, and a 95 % interval."""
    drawn = [_resampled(pairs, one, 1_000) for one in (scores, others)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    ahead = pairs.accuracy(scores) - pairs.accuracy(others)
    return {"accuracy": ahead, "ci95": [float(low), float(high)]}


def _resampled(pairs: AllPairs, scores: np.ndarray, resamples: int, seed: int = 0):
    """Returns `[R]` accuracies on texts that are drawn again, with all their pairs."""
    size = len(scores)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(size, np.full(size, 1 / size), resamples)
    right = ((times @ pairs.credits(scores)) * times).sum(axis=1)
    return right / ((times @ pairs.wanted) * times).sum(axis=1)


def draw_curve(
    path: Path, curve: list[dict[str, Any]], lines: dict[str, float]
) -> None:
    """Draws the accuracy of frozen heads over the number of training pairs, as a PNG."""
    from rljax.report.plots import new_figure, save_figure

    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    sizes = [row["pairs"] for row in curve]
    middle = [row["pair_accuracy"] for row in curve]
    for place in range(len(curve[0]["by_split"])):
        some = [row["by_split"][place] for row in curve]
        label = "each split" if place == 0 else None
        axes.plot(sizes, some, ".", color="tab:blue", alpha=0.5, label=label)
    axes.plot(sizes, middle, color="tab:blue", label="mean, with its 95 % interval")
    ends = np.array([row["pair_accuracy_ci95"] for row in curve]).T
    axes.fill_between(sizes, *ends, color="tab:blue", alpha=0.2, linewidth=0)
    for (name, accuracy), color in zip(lines.items(), ("0.5", "0.3"), strict=False):
        axes.axhline(accuracy, color=color, linestyle="--", linewidth=1)
        axes.text(sizes[-1], accuracy, name, color=color, va="bottom", ha="right")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.minorticks_off()
    axes.set(
        title="Movie reviews: a head on the frozen SmolLM2-135M",
        xlabel="pairs to learn from",
        ylabel="accuracy on pairs of other texts, rating gap > 1",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.35))
    save_figure(figure, path)
