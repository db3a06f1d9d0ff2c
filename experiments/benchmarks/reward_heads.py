"""Times 256 heads on frozen features in one compiled program, beside 256 fits one by one.

    python experiments/benchmarks/reward_heads.py

Synthetic features of the width of SmolLM2, with correlations that fall off as theirs do;
regularization x layer x bootstrap of the comparisons. Each way is timed several times, in
turn, after a first time that compiles. The last line is the seconds one by one over those
of the one program. A minute on two cores.
"""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.rlhf.frozen.heads import HeadHyperparams, JudgedTexts, fit_heads, prepare
from rljax.training.files import dumps
from rljax.training.manifest import device
from rljax.training.populations import stack

L2 = (0.003, 0.01, 0.03, 0.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    num_heads: int = 256
    """Heads; a multiple of 4 penalties times `num_layers`."""
    num_layers: int = 8
    """Layers."""
    num_texts: int = 4_000
    """Texts."""
    num_pairs: int = 16_000
    """Comparisons."""
    width: int = 576
    """Features of a text."""
    repeats: int = 3
    """Times each way is timed."""
    seed: int = 0
    """Draws features, comparisons and bootstraps."""

    def __post_init__(self):
        check_seed(self.seed)
        sizes = "num_heads", "num_layers", "num_texts", "num_pairs", "width", "repeats"
        check_counts(self, *sizes)
        if self.num_heads % (self.num_layers * len(L2)):
            raise ValueError(
                f"num_heads must be a multiple of {self.num_layers * len(L2)}, got "
                f"{self.num_heads}."
            )


def make_problem(settings: Benchmark) -> tuple[np.ndarray, JudgedTexts, np.ndarray]:
    """Returns features, comparisons by a utility that is linear in them, and bootstraps."""
    rng = np.random.default_rng(settings.seed)
    width, num_texts = settings.width, settings.num_texts
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0]
    spread = np.arange(1, width + 1)[:, None] ** -0.5
    features = rng.normal(size=(settings.num_layers, num_texts, width))
    features = (features @ (spread * axes)).astype(np.float32)
    utility = features[0] @ rng.normal(size=width)
    utility *= 2 / utility.std()
    pairs = rng.integers(0, num_texts, (settings.num_pairs, 2))
    chance = 1 / (1 + np.exp(utility[pairs[:, 1]] - utility[pairs[:, 0]]))
    swapped = rng.random(len(pairs)) > chance
    pairs[swapped] = pairs[swapped, ::-1]
    num_splits = settings.num_heads // (settings.num_layers * len(L2))
    weights = rng.poisson(1.0, (num_splits, len(pairs))).astype(np.float32)
    return features, JudgedTexts.of(pairs), weights


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each way, and returns their ratio."""
    features, comparisons, weights = make_problem(settings)
    started = time.perf_counter()
    prepared = jax.block_until_ready(prepare(features))
    seconds_prepare = time.perf_counter() - started
    points = np.meshgrid(
        L2, np.arange(settings.num_layers), np.arange(len(weights)), indexing="ij"
    )
    l2, layer, split = (x.ravel() for x in points)
    every = stack(HeadHyperparams(), l2=l2, layer=layer, split=split)

    def together():
        return np.asarray(fit_heads(prepared, comparisons, every, weights).kernel)

    def one_by_one():
        heads = (
            fit_heads(prepared, comparisons, HeadHyperparams(*values), weights)
            for values in zip(l2, layer, split, strict=True)
        )
        return np.stack([np.asarray(head.kernel) for head in heads])

    rows: dict[str, dict[str, Any]] = {}
    for turn in range(settings.repeats + 1):
        for way in (together, one_by_one):
            row = rows.setdefault(way.__name__, {"system": way.__name__, "seconds": []})
            started = time.perf_counter()
            row["kernels"] = way()
            seconds = time.perf_counter() - started
            if turn:
                row["seconds"].append(seconds)
            else:
                row["seconds_first"] = seconds
    kernels = [row.pop("kernels") for row in rows.values()]
    difference = np.abs(kernels[0] - kernels[1]).max() / np.abs(kernels[1]).max()
    for row in rows.values():
        print(dumps(row), flush=True)
    ratio = np.divide(rows["one_by_one"]["seconds"], rows["together"]["seconds"])
    return {
        "device": device(),
        "num_heads": settings.num_heads,
        "seconds_prepare": seconds_prepare,
        "largest_difference": difference,
        "ratios": {"one_by_one": float(np.median(ratio))},
    }


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
