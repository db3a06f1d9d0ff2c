"""The studies of human judgements, on a tiny model and made-up judgements."""

import dataclasses
import json

import frozen_heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rated_pairs
import reward_model
import tokenizer_folders

from rljax.rlhf import (
    Transformer,
    TransformerConfig,
    load_tokenizer,
    save_language_model,
)
from rljax.training.files import RunError
from rljax.training.run_folder import RunOptions

SHAPE = TransformerConfig(
    vocab_size=400, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, max_length=128,
)  # fmt: skip
WORDS = {"warm": 2.0, "noon": 1.0, "now": 0.0, "cold": -2.0, "off": -1.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A language model, texts that are rated by the words in them, and transcripts."""
    folder = tmp_path_factory.mktemp("studies")
    module, first = Transformer(SHAPE), jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: module.init(key, first, method="logits"))
    save_language_model(folder / "model", module, init(jax.random.key(0)))
    tokenizer_folders.write_byte_level(folder / "model")
    rng = np.random.default_rng(0)
    rated, pairs = [], []
    for number in range(120):
        words = rng.choice(list(WORDS), 2)
        mean = sum(WORDS[word] for word in words)
        rated.append(
            {"text": f"{number} {' '.join(words)}", "ratings": [mean, mean + 1]}
        )
        start = f"\n\nHuman: {number // 2}?\n\nAssistant:"
        pairs.append({"chosen": f"{start} warm {number}", "rejected": f"{start} cold"})
    rated.append(rated[0])
    for name, rows in (("rated", rated), ("pairs", pairs)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def experiment(made, out=None, **changes):
    values = {
        "model": made / "model", "data": made / "rated.jsonl", "cache": made / "cache",
        "layers": (1, 2), "penalties": (0.01, 1.0), "num_pairs": (20, 60),
        "num_splits": 2, "num_tested": 20, "num_seen": 10, "trained_pairs": 16,
        "batch_size": 8, "num_epochs": 2, "last_layers": 1, "run": RunOptions(out=out),
    }  # fmt: skip
    return reward_model.Experiment(**values | changes)


@pytest.mark.slow
def test_the_study_of_movies(made, tmp_path):
    settings = experiment(made, tmp_path)
    result = reward_model.main(settings)
    assert [row["pairs"] for row in result["curve"]] == [20, 60]
    assert (result["texts"], result["heads"]) == (120, 2 * 2 * 2 * 2)
    first, second = (row["by_split"] for row in result["curve"])
    assert first != second
    assert result["largest_residual"] < 1e-3
    assert result["pairs"] == 60
    low, high = result["pair_accuracy_ci95"]
    assert 0.5 < low <= result["pair_accuracy"] <= high <= 1
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert reward_model.main(settings) == result
    with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
        reward_model.main(dataclasses.replace(settings, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("learning_rate", [0.0, 1e-2])
def test_the_study_of_trained_blocks(made, learning_rate):
    result = reward_model.main(
        experiment(made, study="trained", learning_rate=learning_rate)
    )
    assert len(result["validation_accuracies"]) == 3
    gained = result["pair_accuracy"] - result["frozen"]["pair_accuracy"]
    assert result["lead"]["accuracy"] == pytest.approx(gained)
    if learning_rate == 0:  # the blocks begin as they were, the head as it was fitted
        assert gained == pytest.approx(0, abs=0.01)
        assert np.ptp(result["validation_accuracies"]) < 0.01
        assert result["epoch"] == 1
    else:
        assert np.ptp(result["validation_accuracies"]) > 0.01


@pytest.mark.slow
def test_the_study_of_transcripts(made):
    settings = experiment(made, study="hh", data=made / "pairs.jsonl")
    result = reward_model.main(settings)
    assert (result["pairs"], result["texts"]) == (120, 240)
    assert result["pair_accuracy"] > 0.95
    assert result["length_only_accuracy"] == 1  # the number makes the chosen one longer
    assert len(result["chosen"]) == 5


def test_wrong_settings(made):
    with pytest.raises(RunError, match="hh needs a file"):
        reward_model.main(experiment(made, study="hh", data=None))
    with pytest.raises(RunError, match="120 texts cannot be divided so"):
        reward_model.main(experiment(made, num_tested=50))
    with pytest.raises(ValueError, match="num_pairs must ascend"):
        experiment(made, num_pairs=(60, 20))


def test_divisions_do_not_share_texts():
    means = np.random.default_rng(0).normal(0, 2, 300)
    options = {"num_splits": 3, "num_tested": 40, "num_seen": 50, "num_pairs": 500}
    divisions = rated_pairs.divide(means, **options, min_gap=1.0, seed=0)
    tests = np.concatenate([one.test for one in divisions])
    assert len(set(tests)) == 120
    seen = np.random.default_rng(7).permutation(300)[:50]
    assert not set(tests) & set(seen)
    for one in divisions:
        parts = [set(one.pairs.ravel()), set(one.validation), set(one.test)]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert (means[one.pairs[:, 0]] - means[one.pairs[:, 1]]).min() > 1.0
    again = rated_pairs.divide(means, **options, min_gap=1.0, seed=1)
    for one, other in zip(divisions, again, strict=True):
        np.testing.assert_array_equal(one.test, other.test)
        assert set(one.validation) != set(other.validation)


def test_the_accuracy_on_all_pairs_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    means, scores = rng.normal(0, 1, 30), rng.integers(0, 5, 30).astype(float)
    right, count = 0.0, 0
    for i in range(30):
        for j in range(30):
            if means[i] - means[j] > 0.7:
                count += 1
                right += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
    pairs = rated_pairs.AllPairs(means, 0.7)
    assert pairs.accuracy(scores) == pytest.approx(right / count)
    found = rated_pairs.mean_accuracy([pairs, pairs], [scores, means])
    assert found["pair_accuracy"] == pytest.approx((right / count + 1) / 2)
    low, high = found["pair_accuracy_ci95"]
    assert low < found["pair_accuracy"] < high
    assert rated_pairs.lead(pairs, scores, scores) == {"accuracy": 0, "ci95": [0, 0]}


def test_the_best_is_the_first_layer_with_the_strongest_penalty():
    accuracies = np.array([[0.8, 0.6, 0.8, 0.6], [0.8, 0.8, 0.8, 0.8]])
    assert frozen_heads.best(accuracies) == (0, 2)


@pytest.mark.slow
def test_what_means_nothing_is_not_learned_from_pairs_that_are_held_out():
    features = np.random.default_rng(0).normal(0, 1, (2, 240, 60))
    pairs, groups = np.arange(240).reshape(-1, 2), np.arange(120) // 2
    scores, learned, chosen = frozen_heads.cross_validated(
        features.astype(np.float32), pairs, groups, (0.01, 0.1), seed=0
    )
    assert 0.35 < np.mean(scores[:, 0] > scores[:, 1]) < 0.65  # of those seen, all
    assert [len(rows) for rows in learned] == [96] * 5
    assert len(chosen) == 5


def test_a_question_stands_around_a_text_and_what_is_long_loses_its_beginning(made):
    tokenizer = load_tokenizer(made / "model")
    texts = ["Is it warm?" * 9 + " Very.", "No."]
    ids, lengths = frozen_heads.encode(tokenizer, texts, ("So: ", " Yes"), 512)
    for row, length, text in zip(ids, lengths, texts, strict=True):
        assert tokenizer.decode(row[:length]) == f"So: {text} Yes"
    ids, lengths = frozen_heads.encode(tokenizer, texts[:1], ("So: ", " Yes"), 20)
    assert lengths[0] == 20
    assert tokenizer.decode(ids[0]).endswith("warm? Very. Yes")
