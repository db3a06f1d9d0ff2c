"""Over-optimization: fits beside known curves, the gold reward, and the study at toy sizes."""

import dataclasses
import json
import math

import beta_frontier
import jax
import jax.numpy as jnp
import numpy as np
import overoptimization
import overoptimization_samples
import pytest
import sentiment
import tiny_prose
from overoptimization_fits import fit_best_of_n, fit_optimization
from overoptimization_settings import Experiment
from overoptimization_world import gold_reward, in_parts
from scipy import optimize

from rljax.rlhf.policy.samples import Samples
from rljax.training.files import RunError
from rljax.training.run_folder import RunOptions

WORDS = [
    "good",
    "great",
    "bad",
    "awful",
    "funny",
    "film",
    "plot",
    "cast",
    "a",
    "the",
    "and",
    "of",
]


def test_fits_find_the_curves_that_were_drawn():
    d = np.linspace(0.1, 6, 50)
    found = fit_best_of_n(d, d * (2.0 - 0.25 * d))
    np.testing.assert_allclose(found, [2.0, 0.25, 1.0, 4.0])
    found = fit_optimization(d, d * (2.0 - 1.0 * np.log(d)))
    np.testing.assert_allclose(found, [2.0, 1.0, 1.0, math.e])
    assert fit_optimization(d, d * (2.0 + np.log(d))).peak == math.inf
    assert fit_optimization(d, d * (2.0 - 1e-3 * np.log(d))).peak == math.inf
    assert math.isnan(fit_best_of_n(d, np.zeros(50)).r2)


@pytest.mark.parametrize(
    ("fit", "bend"), [(fit_best_of_n, lambda d: d), (fit_optimization, np.log)]
)
def test_fits_beside_scipy_and_poor_ones_say_so(fit, bend):
    generator = np.random.default_rng(0)
    d = generator.uniform(0.5, 5, 200)
    gains = d * (1.5 - 0.5 * bend(d)) + generator.normal(0, 1, 200)
    (alpha, beta), _ = optimize.curve_fit(
        lambda d, a, b: d * (a - b * bend(d)), d, gains
    )
    found = fit(d, gains)
    np.testing.assert_allclose([found.alpha, found.beta], [alpha, beta], rtol=1e-5)
    grid = np.linspace(0.01, 50, 5000)
    best = grid[np.argmax(grid * (alpha - beta * bend(grid)))]
    assert abs(found.peak - best) < 0.1
    assert 0 < found.r2 < 1
    assert fit(d, generator.normal(10, 0.1, 200)).r2 < 0  # no curve from 0 is a level


def test_gold_counts_a_word_once():
    gold = gold_reward(["A great film.", "great great Great", "great fun", "xq", ""])
    np.testing.assert_allclose(gold[:2], 3.1)
    assert gold[2] > gold[1]
    assert (gold[3:] == 0).all()
    assert gold_reward(["not great"])[0] < 0


def test_word_lists():
    texts = ["A great film.", "A great, great film!", "An awful film.", "A film."]
    compound, total, other = (
        sentiment.vader(texts),
        sentiment.vader_sum(texts),
        sentiment.afinn(texts),
    )
    np.testing.assert_allclose(total, [3.1, 6.2, -2.0, 0.0])
    np.testing.assert_allclose(
        compound[[0, 2, 3]], (total / np.sqrt(total**2 + 15))[[0, 2, 3]], atol=1e-4
    )
    np.testing.assert_allclose(other, [3, 6, -3, 0])


def test_parts_are_those_of_the_whole():
    rows = {"x": np.arange(300.0)}
    sizes = set()

    def double(part):
        sizes.add(len(part["x"]))
        return 2 * part["x"]

    np.testing.assert_array_equal(in_parts(double, rows), 2 * rows["x"])
    assert len(sizes) == 1  # one program


def test_pairs_are_judged_by_bradley_and_terry():
    pairs = overoptimization_samples.Pairs(
        made_samples(1000), np.tile([[2.0, 0.0]], (500, 1)), 2.0
    )
    rows = pairs.judged(jax.random.key(0), 400)
    assert rows.ids.shape == (400, 2, 3)
    first = np.asarray(rows.ids[:, :, 0])
    assert (first // 2 == first[:, :1] // 2).all()  # the two of one pair
    assert len(set(first[:, 0] // 2)) == 400
    share = (first[:, 0] % 2 == 0).mean()  # the better one stands first in a pair
    assert abs(share - 1 / (1 + math.exp(-1))) < 0.07
    scores = np.tile([2.0, 1.0], 500)
    assert pairs.accuracy(scores) == pytest.approx(1 / (1 + math.exp(-1)))
    assert pairs.accuracy(-scores) == pytest.approx(1 / (1 + math.exp(1)))
    assert pairs.accuracy(0 * scores) == 0.5


def test_settings_are_checked():
    with pytest.raises(ValueError, match="num_samples must be a multiple of 8, got 12"):
        Experiment(num_samples=12)
    with pytest.raises(ValueError, match=r"num_preferences must .* ascend"):
        Experiment(num_preferences=(500, 100))
    with pytest.raises(ValueError, match="needs a folder"):
        overoptimization.main(Experiment())


@pytest.mark.slow
def test_the_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    write_reviews(tmp_path / "reviews.jsonl")
    toy = Experiment(
        num_seeds=2, num_members=2, data=tmp_path / "reviews.jsonl", vocab_size=13,
        width=8, pretraining_updates=6, num_epochs=1, num_preferences=(32, 64),
        num_tested=32, num_prompts=20, best_of=8, num_updates=4,
        num_samples=16, num_evaluations=2, learning_rate=0.1,
    )  # fmt: skip
    whole = dataclasses.replace(toy, run=RunOptions(out=tmp_path / "whole"))
    result = overoptimization.main(whole)
    assert overoptimization.main(whole) == result
    curves = json.loads((tmp_path / "whole" / "curves.json").read_text())
    assert len(curves) == 2 * 3 * 2  # methods, proxies and the ensemble, seeds
    for curve in curves:
        points = curve["points"]
        if curve["method"] == "best_of_n":
            assert [point["n"] for point in points] == [1, 2, 4, 8]
            assert points[0]["gold"] == pytest.approx(0, abs=1e-9)
            assert np.diff([point["proxy"] for point in points]).min() > 0
        else:
            assert [point["step"] for point in points] == [0, 2, 4]
            assert points[0]["distance"] < 1e-3 < points[-1]["distance"]
    for method in ("best_of_n", "optimization"):
        assert set(result[method]) == {"32 pairs", "64 pairs", "ensemble"}
    assert (tmp_path / "whole" / "overoptimization.png").stat().st_size > 10_000
    page = (tmp_path / "whole" / "samples.md").read_text()
    assert page.count("at the end") == 3

    stopped = dataclasses.replace(toy, run=RunOptions(out=tmp_path / "stopped"))
    optimized, calls = overoptimization.optimized, []

    def stops_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise RunError("stopped")
        return optimized(*args)

    monkeypatch.setattr(overoptimization, "optimized", stops_at_the_third)
    with pytest.raises(RunError, match="stopped"):
        overoptimization.main(stopped)
    overoptimization.main(stopped)
    for name in ("curves.json", "samples.md", "overoptimization.png"):
        found = [(tmp_path / run / name).read_bytes() for run in ("whole", "stopped")]
        assert found[0] == found[1], name


@pytest.mark.slow
def test_the_frontier_has_a_place_for_each_beta(tmp_path):
    write_reviews(tmp_path / "reviews.jsonl", 900)
    settings = beta_frontier.Experiment(
        betas=(0.1, 1.0), num_runs=2, num_updates=2, num_evaluations=1,
        data=tmp_path / "reviews.jsonl", pretraining_updates=4, num_preferences=64,
        run=RunOptions(out=tmp_path / "out"),
    )  # fmt: skip
    result = beta_frontier.main(settings)
    assert [row["beta"] for row in result["betas"]] == [0.1, 1.0]
    assert result["completions"] == 2 * 2 * 2 * 64
    assert beta_frontier.main(settings) == result
    assert (tmp_path / "out" / "frontier.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="betas"):
        beta_frontier.Experiment(betas=())


def test_corpus_keeps_held_out_sentences_apart(tmp_path):
    write_reviews(tmp_path / "reviews.jsonl")
    corpus = tiny_prose.read_corpus(
        tmp_path / "reviews.jsonl", vocab_size=13, num_held_out=20
    )
    ids = np.asarray(corpus.rows.ids)
    assert ids.shape == (len(corpus.prompts), tiny_prose.LENGTH)
    assert len(corpus.held_out) == 20
    held_out, learned = (
        {*map(tuple, x.tolist())} for x in (corpus.held_out, corpus.prompts)
    )
    assert len(held_out) == 20
    assert not held_out & learned
    with pytest.raises(RunError, match="Hold out fewer"):
        tiny_prose.read_corpus(
            tmp_path / "reviews.jsonl", vocab_size=13, num_held_out=149
        )
    np.testing.assert_array_equal(corpus.prompts, ids[:, : tiny_prose.PROMPT_LENGTH])
    for row, length in zip(ids, np.asarray(corpus.rows.lengths), strict=True):
        assert row[0] == tiny_prose.END
        assert (row[1 : length - 1] != tiny_prose.END).all()
        assert (row[length:] == 0).all()
    lines = (tmp_path / "reviews.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    for text in corpus.texts(ids):
        assert any(whole.startswith(text.strip()) for whole in texts), text


def write_reviews(path, count=150):
    """Writes made-up sentences with ratings."""
    generator = np.random.default_rng(0)
    lines = []
    for size in generator.integers(4, 20, count):
        text = " ".join(generator.choice(WORDS, size))
        lines.append(json.dumps({"text": text, "ratings": [1, 2]}))
    path.write_text("\n".join(lines) + "\n")


def made_samples(count):
    """Returns completions, whose first token is their number."""
    ids = np.zeros((count, 3), np.int32)
    ids[:, 0] = np.arange(count)
    lengths = np.full(count, 3, np.int32)
    return Samples(
        ids=jnp.asarray(ids),
        lengths=jnp.asarray(lengths),
        starts=jnp.ones(count, jnp.int32),
        prompt_index=jnp.zeros(count, jnp.int32),
        stopped=jnp.zeros(count, bool),
        log_probs=jnp.zeros((count, 2)),
    )
