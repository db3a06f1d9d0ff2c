"""InstructGPT's steps on a tiny model and made-up ratings, and the chapter's equations."""

import itertools
import json

import chapter
import instructgpt
import jax
import jax.numpy as jnp
import movie_reviews
import numpy as np
import pytest
import review_reward
import tokenizer_folders

from rljax.rlhf import (
    LastLayers,
    Transformer,
    TransformerConfig,
    load_language_model,
    load_tokenizer,
    save_language_model,
)
from rljax.rlhf.models.trainable import adapt
from rljax.rlhf.policy.forward import run_trunk
from rljax.rlhf.policy.samples import Samples
from rljax.training import run_folder
from rljax.training.files import RunError
from rljax.training.run_folder import RunOptions, UsageError

SHAPE = TransformerConfig(
    vocab_size=400, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, max_length=256,
)  # fmt: skip
WORDS = {"good": 2.0, "great": 3.0, "it": 0.0, "bad": -2.0, "awful": -3.0}
TINY = {
    "num_sentences": 32, "num_rated": 32, "num_tested": 20, "num_pairs": 60, "num_heads": 2,
    "num_updates": 3, "num_prompts": 2, "group_size": 2, "max_new_tokens": 6,
    "num_held_out": 12, "last_layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A language model, and sentences that are rated by the words in them."""
    folder = tmp_path_factory.mktemp("reviews")
    module, first = Transformer(SHAPE), jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: module.init(key, first, method="logits"))
    save_language_model(folder / "model", module, init(jax.random.key(0)))
    tokenizer_folders.write_byte_level(folder / "model")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(120):
        words = rng.choice(list(WORDS), 2)
        mean = sum(WORDS[word] for word in words) / 2
        row = {"text": f"{number} {' '.join(words)}", "ratings": [mean, mean + 0.5]}
        lines.append(json.dumps(row))
    (folder / "rated.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def experiment(made, out, **changes):
    values = {"model": made / "model", "data": made / "rated.jsonl"}
    values["run"] = RunOptions(out=out, checkpoint_every=0.0)
    return instructgpt.Experiment(**TINY | values | changes)


def material(made, **changes):
    sizes = {"num_shown": 40, "num_rated": 50, "num_held_out": 20, "seed": 0}
    tokenizer = load_tokenizer(made / "model")
    return movie_reviews.read_material(
        made / "rated.jsonl", tokenizer, **sizes | changes
    )


def test_sentences_and_templates_are_held_out(made):
    tokenizer, found = load_tokenizer(made / "model"), material(made)
    parts = []
    for rows in (found.shown, found.rated, found.unseen):
        texts = set()
        for ids, length, start in zip(rows.ids, rows.lengths, rows.starts, strict=True):
            completion = tokenizer.decode(np.asarray(ids)[int(start) : int(length)])
            assert completion[0] == " "
            assert completion[-1] == "\n"
            assert tokenizer.decode(np.asarray(ids)[: int(start)]) in found.prompts
            texts.add(completion)
        parts.append(texts)
    assert [len(texts) for texts in parts] == [40, 50, 20]
    assert len(set.union(*parts)) == 110
    assert not set(found.prompts) & set(found.held_out)
    assert len(set(found.held_out)) == 20
    again, other = material(made).held_out, material(made, seed=1).held_out
    assert again == found.held_out != other
    with pytest.raises(RunError, match="Lower these numbers"):
        material(made, num_shown=60)


def test_heads_learn_who_is_rated_higher(made):
    rng = np.random.default_rng(0)
    direction = rng.normal(size=16)
    features = rng.normal(size=(300, 16)).astype(np.float32)
    ratings = features @ direction + 0.1 * rng.normal(size=300)
    arrays, figures = review_reward.learn_heads(
        features, ratings, num_tested=100, num_pairs=400, num_heads=3, seed=0
    )
    assert figures["pair_accuracy"] > 0.95
    scores = review_reward.scores_of(arrays["kernels"], arrays["biases"], features)
    assert abs(scores[:200].mean()) < 1e-3
    assert scores[:200].std() == pytest.approx(1, abs=1e-3)
    assert not np.allclose(arrays["kernels"][0], arrays["kernels"][1], rtol=1e-2)


def test_a_judge_reads_the_question_after_the_sentence(made):
    tokenizer, rows = load_tokenizer(made / "model"), material(made).rated
    module, variables = load_language_model(made / "model")
    judge = review_reward.Judge(module, variables["params"], tokenizer, 1)
    found = judge.features(rows.ids, rows.lengths)
    ids = np.asarray(rows.ids)[3, : int(rows.lengths[3])].tolist()
    whole = jnp.array([[*ids, *judge.question]])
    states = module.apply(variables, whole, jnp.array([whole.shape[1]]), "last", method="after_each_layer")  # fmt: skip
    normalized = module.bind(variables).norm(states[0, 0])
    np.testing.assert_allclose(found[3], normalized, atol=1e-5)


@pytest.mark.slow
def test_both_rewards_are_the_judges_scores(made):
    tokenizer, rows = load_tokenizer(made / "model"), material(made).rated
    module, variables = load_language_model(made / "model")
    judge = review_reward.Judge(module, variables["params"], tokenizer, 1)
    rng = np.random.default_rng(0)
    heads = {
        "kernels": jnp.asarray(rng.normal(size=(3, 16)), jnp.float32),
        "biases": jnp.asarray(rng.normal(size=3), jnp.float32),
    }
    scores = judge.features(rows.ids, rows.lengths) @ np.asarray(heads["kernels"]).T
    scores += np.asarray(heads["biases"])[None]
    want = scores.mean(axis=1) - 0.5 * scores.std(axis=1)
    adapted = adapt(module, LastLayers(1))
    trunk = run_trunk(adapted, variables["params"], rows, judge.question)
    samples = Samples(
        ids=rows.ids, lengths=rows.lengths, starts=rows.starts, prompt_index=None,
        stopped=None, log_probs=None, trunk_last=trunk[1],
    )  # fmt: skip
    for make in (judge.trunk_reward, judge.own_reward):
        reward, reads = make(heads, 0.5)
        found = jax.jit(reward)(reads, samples)
        np.testing.assert_allclose(found, want, atol=1e-4)


@pytest.mark.slow
def test_low_rank_terms_are_trained_too(made, tmp_path, monkeypatch):
    monkeypatch.setattr(review_reward, "cache_folder", lambda: made / "cache")
    result = instructgpt.main(experiment(made, tmp_path, train="lora", recipe="ppo"))
    assert len(result["gold_after"]) == 1
    module, _ = load_language_model(tmp_path / "seed_0" / "model")
    assert module.config.num_layers == SHAPE.num_layers


@pytest.mark.slow
def test_stopped_in_any_stage_it_ends_with_the_same_figures(
    made, tmp_path, monkeypatch
):
    monkeypatch.setattr(review_reward, "cache_folder", lambda: made / "cache")
    whole = instructgpt.main(experiment(made, tmp_path / "whole"))
    for after in (0, 1, 5):  # within the first training, after it, in the second
        settings = experiment(made, tmp_path / f"stopped_{after}")
        asked = itertools.count()

        def should_stop(folder, asked=asked, after=after):
            return "SIGTERM" if next(asked) >= after else None

        with monkeypatch.context() as patch:
            patch.setattr(run_folder.RunFolder, "should_stop", should_stop)
            with pytest.raises(RunError, match="stopped by SIGTERM"):
                instructgpt.main(settings)
        again = instructgpt.main(settings)
        for name in whole:
            if "second" not in name and name != "stages":
                assert again[name] == whole[name], name
        for one, other in zip(again["stages"][0], whole["stages"][0], strict=True):
            for name in one:
                assert "second" in name or one[name] == other[name], name
        for name in ("before.jsonl", "after.jsonl", "model/model.safetensors"):
            paths = (
                tmp_path / run / "seed_0" / name
                for run in ("whole", f"stopped_{after}")
            )
            one, other = (path.read_bytes() for path in paths)
            assert one == other, name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_updates": 0}, "num_updates"),
        ({"num_held_out": 1}, "num_held_out"),
        ({"num_sentences": 15}, "num_sentences"),
        ({"group_size": 1}, "group_size"),
        ({"temperature": 0.0}, "temperature"),
        ({"uncertainty_penalty": float("nan")}, "uncertainty_penalty"),
    ],
)
def test_settings_are_checked_before_anything_is_trained(wrong, message):
    with pytest.raises(ValueError, match=message):
        instructgpt.Experiment(**wrong)


def test_what_cannot_be_run_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="Name one with --out"):
        instructgpt.main(instructgpt.Experiment())
    with pytest.raises(RunError, match=r"fetch_smollm2\.py"):
        instructgpt.main(experiment(made, tmp_path, model=made / "none"))
    with pytest.raises(ValueError, match="must leave a block"):
        instructgpt.main(experiment(made, tmp_path / "all", last_layers=2))
    with (made / "rated.jsonl").open() as file:
        (tmp_path / "other.jsonl").write_text("".join([*file][1:]))
    with pytest.raises(UsageError, match="data_sha256"):
        instructgpt.main(
            experiment(
                made, tmp_path / "all", last_layers=2, data=tmp_path / "other.jsonl"
            )
        )


@pytest.mark.slow
def test_the_chapters_equations_hold():
    result = chapter.main(chapter.Experiment(num_episodes=1000))
    for name in chapter.PARTS:
        row = result[name]
        assert abs(row["value"] - row["check"]) <= 3 * row["error"], name
