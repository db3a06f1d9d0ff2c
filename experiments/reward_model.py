"""Learns what people prefer, from SmolLM2-135M, and says how good that is.

    python experiments/fetch_smollm2.py
    python experiments/fetch_ratings.py
    python experiments/reward_model.py --study movies --out runs/movies
    python experiments/reward_model.py --study trained --out runs/trained
    python experiments/reward_model.py --study hh --data FILE.jsonl.gz --out runs/hh

movies: hundreds of heads on the frozen model, fitted at once, to pairs of sentences from
movie reviews that people rated. trained: its last blocks learn too, from some of these
pairs. hh: which of two answers a person called less harmful, of HH-RLHF's transcripts.
Layers and penalties are chosen on texts that are neither learned from nor tested on.
Features are kept: what was computed once is not computed again.

Expected: experiments/results/reward_model.md.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import frozen_heads
import jax
import numpy as np
import rated_pairs
import trained_blocks

from rljax.commands.fetch import cache_folder
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.numerics.compiler import Stopwatch
from rljax.numerics.processes import is_main
from rljax.numerics.validation import check_at_least
from rljax.report.plots import require_matplotlib
from rljax.rlhf import evaluation
from rljax.rlhf.data import Transcript
from rljax.rlhf.data.datasets import read_preferences, read_ratings
from rljax.training.files import RunError, dumps
from rljax.training.loggers import log_line
from rljax.training.run_folder import RunFolder, RunOptions

MOVIE = "Movie review: ", "\nIn one word, the reviewer found this movie"
ANSWER = "", "\n\nIn one word, the Assistant's last answer was"
# What others reach on sentences from movie reviews with a rating gap above 1.
OTHERS = {"VADER's lexicon": 0.71, "MiniLM, ridge regression": 0.82}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    study: Literal["movies", "trained", "hh"] = "movies"
    """Which of the three studies."""
    model: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Folder of a language model; by default where fetch_smollm2.py puts it."""
    data: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Rated texts, or hh's preferences; by default where fetch_ratings.py puts movies."""
    cache: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Folder of the features; by default in the user's cache."""
    layers: tuple[int, ...] = (16, 18, 20, 22, 24)
    """After which blocks features are taken."""
    penalties: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Weights of the penalty on a head's size, ascending."""
    max_length: int = 160
    """Tokens of a text with its question; longer ones lose their beginning."""
    num_pairs: tuple[int, ...] = (250, 1000, 4000, 16000)
    """Pairs to learn from, ascending."""
    min_gap: float = 1.0
    """What the mean ratings of a pair differ by more than, in training and in tests."""
    num_splits: int = 3
    """Divisions of the texts, each with other texts to test on; 5 folds of hh."""
    num_tested: int = 600
    """Texts to test on in each division; as many others are for validation."""
    num_seen: int = 1600
    """Texts on which the question to the model was chosen, which are never tested on."""
    trained_pairs: int = 1000
    """Pairs that the blocks learn from."""
    last_layers: int = 4
    """Blocks that learn."""
    num_epochs: int = 2
    """Times that they learn from each pair, at most: validation chooses."""
    learning_rate: float = 5e-5
    """Of the blocks; it falls to 0."""
    batch_size: int = 32
    """Pairs in an update of the blocks."""
    seed: int = 0
    """Of divisions, pairs and the order of training."""
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        names = ("max_length", "num_tested", "last_layers", "num_epochs", "batch_size")
        check_counts(self, *names, "num_splits")
        check_at_least(self.batch_size, trained_pairs=self.trained_pairs)
        for name in ("layers", "num_pairs", "penalties"):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)):
                raise ValueError(f"{name} must ascend, got {values}. Sort them.")


def main(experiment: Experiment) -> dict[str, Any]:
    """Runs a study, or finds its result, and returns the headline figures."""
    require_matplotlib()
    with RunFolder("reward_model", experiment, experiment.run) as folder:
        if folder.result is not None:
            return folder.result
        stopwatch = Stopwatch()
        study = {"movies": movies, "trained": trained, "hh": hh}[experiment.study]
        result = study(experiment)
        totals = {
            name: getattr(stopwatch, name)
            for name in ("seconds_compile", "seconds_run")
        }
        return folder.finish(result, totals, unit="texts")


def movies(experiment: Experiment) -> dict[str, Any]:
    """Heads on frozen features: accuracy over the number of pairs."""
    means, material = read_movies(experiment)
    sizes, most = experiment.num_pairs, experiment.num_pairs[-1]
    divisions = divide(experiment, means, most)
    shape = len(divisions), len(sizes)
    weights = np.zeros((*shape, len(divisions), most), np.float32)
    for place, number in np.ndindex(shape):
        weights[place, number, place, : sizes[number]] = 1
    pairs = np.concatenate([one.pairs for one in divisions])
    heads = frozen_heads.fit_grid(
        material.features, pairs, weights.reshape(-1, len(pairs)), experiment.penalties
    )
    scores = frozen_heads.grid_scores(heads, material.features)
    scores = scores.reshape(*shape, *scores.shape[1:])
    tests = [
        rated_pairs.AllPairs(means[one.test], experiment.min_gap) for one in divisions
    ]
    curve = []
    for number, size in enumerate(sizes):
        found, chosen = [], []
        for place, one in enumerate(divisions):
            best = choose(experiment, means, one, scores[place, number])
            found.append(scores[place, number, *best, one.test])
            chosen.append(named(experiment, best))
        accuracy = rated_pairs.mean_accuracy(tests, found)
        curve.append({"pairs": size, "chosen": chosen} | accuracy)
        log_line(dumps(curve[-1]))
    if experiment.run.out is not None and is_main():
        rated_pairs.draw_curve(experiment.run.out / "curve.png", curve, OTHERS)
    headline = next((row for row in curve if row["pairs"] == 4000), curve[-1])
    return headline | {
        "curve": curve,
        "heads": int(np.prod(scores.shape[:-1])),
        "largest_residual": float(np.max(heads.residual)),
        "texts": len(means),
    }


def trained(experiment: Experiment) -> dict[str, Any]:
    """The last blocks learn as well, from where the best frozen head stands."""
    means, material = read_movies(experiment)
    one = divide(experiment, means, experiment.trained_pairs)[0]
    weights = np.ones((1, len(one.pairs)), np.float32)
    heads = frozen_heads.fit_grid(
        material.features, one.pairs, weights, experiment.penalties
    )
    frozen = frozen_heads.grid_scores(heads, material.features)[0]
    best = choose(experiment, means, one, frozen)
    validation = rated_pairs.AllPairs(means[one.validation], experiment.min_gap)
    test = rated_pairs.AllPairs(means[one.test], experiment.min_gap)
    before = frozen[*best, one.test]
    seen, models = [validation.accuracy(frozen[*best, one.validation])], []
    for score in trained_blocks.train_blocks(
        material,
        jax.tree.map(lambda x: x[0, *best], heads),
        one.pairs,
        num_layers=experiment.layers[best[0]],
        last_layers=experiment.last_layers,
        num_epochs=experiment.num_epochs,
        batch_size=experiment.batch_size,
        learning_rate=experiment.learning_rate,
        seed=experiment.seed,
    ):
        seen.append(validation.accuracy(score(one.validation)))
        models.append(score)
        log_line(f"accuracy in validation, from frozen: {np.round(seen, 4)}")
    epoch = int(np.argmax(seen[1:]))
    after = models[epoch](one.test)
    return rated_pairs.mean_accuracy([test], [after]) | {
        "frozen": rated_pairs.mean_accuracy([test], [before]),
        "lead": rated_pairs.lead(test, after, before),
        "pairs": len(one.pairs),
        "epoch": epoch + 1,
        "validation_accuracies": seen,
        "chosen": named(experiment, best),
        "texts": len(means),
    }


def hh(experiment: Experiment) -> dict[str, Any]:
    """Which answer a person called less harmful: five folds, beside length alone."""
    if experiment.data is None:
        raise RunError("hh needs a file of preferences. Name one with --data.")
    rows = list(read_preferences(experiment.data))
    examples: list[Any] = [text for row in rows for text in (row.chosen, row.rejected)]
    if not all(isinstance(text, Transcript) for text in examples):
        raise RunError("hh needs transcripts without a prompt, as HH-RLHF has them.")
    material = read_material(experiment, [text.text for text in examples], ANSWER)
    scores, learned, chosen = frozen_heads.cross_validated(
        material.features,
        np.arange(len(examples)).reshape(-1, 2),
        np.array([text.text[: text.start] for text in examples[::2]]),
        experiment.penalties,
        seed=experiment.seed,
    )
    sizes = np.reshape([len(text.text) - text.start for text in examples], (-1, 2))
    scored = evaluation.Comparisons.of(scores, lengths=sizes)
    rules = {evaluation.choose_length_rule(scored.select(some)) for some in learned}
    rule = rules.pop() if len(rules) == 1 else None
    row = evaluation.evaluate_scores(scored, length_rule=rule).row()
    chose = [named(experiment, best) for best in chosen]
    return row | {"chosen": chose, "texts": len(examples)}


def read_movies(experiment: Experiment) -> tuple[np.ndarray, frozen_heads.Material]:
    """Returns the mean ratings `[T]` of different texts, and what the model makes of them."""
    path = experiment.data or cache_folder() / "ratings" / "movies.jsonl"
    means: dict[str, float] = {}
    for rated in read_ratings(path):
        example: Any = rated.example
        means.setdefault(example.text, rated.mean)
    material = read_material(experiment, list(means), MOVIE)
    return np.array(list(means.values())), material


def read_material(
    experiment: Experiment, texts: list[str], question: tuple[str, str]
) -> frozen_heads.Material:
    """Returns texts with what the model makes of them."""
    return frozen_heads.read_material(
        experiment.model or cache_folder() / "SmolLM2-135M-Instruct",
        texts,
        question,
        max_length=experiment.max_length,
        layers=experiment.layers,
        cache=experiment.cache or cache_folder() / "features",
    )


def divide(
    experiment: Experiment, means: np.ndarray, num_pairs: int
) -> list[rated_pairs.Division]:
    """Returns divisions of the movies' texts."""
    return rated_pairs.divide(
        means,
        num_splits=experiment.num_splits,
        num_tested=experiment.num_tested,
        num_seen=experiment.num_seen,
        num_pairs=num_pairs,
        min_gap=experiment.min_gap,
        seed=experiment.seed,
    )


def choose(
    experiment: Experiment,
    means: np.ndarray,
    one: rated_pairs.Division,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Returns the layer and the penalty of scores `[K, R, T]` that validation prefers."""
    pairs = rated_pairs.AllPairs(means[one.validation], experiment.min_gap)
    found = scores[..., one.validation]
    return frozen_heads.best(np.apply_along_axis(pairs.accuracy, -1, found))


def named(experiment: Experiment, best: tuple[int, int]) -> dict[str, float]:
    """The layer and the penalty at two places."""
    layer, place = best
    return {"layer": experiment.layers[layer], "l2": experiment.penalties[place]}


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
