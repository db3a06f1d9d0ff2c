"""The recipes on words written backwards: their data, their table, and kill -9."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import recipes
import recipes_report
import recipes_words
import word_problems
from numpy.testing import assert_array_equal

from rljax.rlhf.policy.samples import Samples
from rljax.rlhf.recipes import R1Settings
from rljax.training.files import RunError

STAGES = {
    "instructgpt": "pretrained sft comparisons held_out reward_model rl",
    "tulu3": "pretrained sft pairs dpo rlvr",
    "r1": "pretrained cold_start reasoning_rl rejection sft_control sft mixed_rl",
}
TINY = {
    "num_seeds": 1, "sft_updates": 5, "pair_updates": 3, "rl_updates": 3,
    "num_sampled": 192, "num_held_out": 20, "pretraining_updates": 3,
}  # fmt: skip


def verse():
    """Made-up words in lines, so that nothing has to be fetched."""
    rng = np.random.default_rng(0)
    letters = [[chr(97 + i) for i in row] for row in rng.integers(0, 8, (4000, 6))]
    words = ["".join(row[: 4 + i % 3]) for i, row in enumerate(letters)]
    return "\n".join(" ".join(words[i : i + 8]) for i in range(0, len(words), 8))


def completed(texts, stopped, prompt_index):
    """Samples that have these completions, of prompts of one token."""
    ids = np.zeros((len(texts), 1 + word_problems.ANSWER_LENGTH), np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[1 : 1 + len(text)] = list(text.encode())
    lengths = jnp.array([1 + len(text) for text in texts])
    return Samples(
        ids=jnp.asarray(ids), lengths=lengths, starts=jnp.ones_like(lengths),
        prompt_index=jnp.asarray(prompt_index), stopped=jnp.asarray(stopped),
        log_probs=jnp.zeros((len(texts), word_problems.ANSWER_LENGTH)),
    )  # fmt: skip


def test_words_are_verified_and_verse_is_to_end():
    both = recipes_words.mixed(["noon", "abcd"], ["What a "])
    assert both.ids[1].tolist() == [0, 0, 0, 0, *b"abcd>"]
    assert both.ids[2].tolist() == [0, 0, *b"What a "]
    texts = ["noon\n", "abcd\n", "dcba\n", "day\n", "da\n", "daydayday"]
    stopped = [text.endswith("\n") for text in texts]
    samples = completed(texts, stopped, [0, 1, 1, 2, 2, 2])
    assert_array_equal(both.scores(samples), [1, 0, 1, 1, 0, 0])


def test_nothing_that_is_held_out_is_learned_from(monkeypatch):
    monkeypatch.setattr(word_problems, "read_text", verse)
    texts = recipes_words.read_texts(20, 100)
    for sizes in ((2000, 100), (20, 10**6)):
        with pytest.raises(RunError, match="Lower num_held_out, or num_sampled"):
            recipes_words.read_texts(*sizes)
    learned = [*texts.shown, *texts.demonstrated, *texts.asked]
    assert len(set(learned)) == len(learned)
    assert not set(learned) & set(texts.held_out)
    assert not set(texts.verse) & set(texts.held_out_verse)
    assert (len(texts.held_out), len(texts.held_out_verse)) == (20, 10)
    data = recipes_words.tulu3_data(texts, 32)
    assert data.judged.ids.shape == (32, word_problems.PROMPT_LENGTH)
    assert data.demonstrations.ids.shape[1] == word_problems.LENGTH
    r1 = recipes_words.r1_data(texts, 32)
    assert len(r1.worked.ids) == recipes_words.NUM_WORKED
    assert r1.other.ids.shape[1] == word_problems.LENGTH
    kinds = np.asarray(r1.mixed.params.kinds)
    assert kinds.tolist() == [0] * 32 + [1] * 32


def test_the_table_says_what_has_not_risen_for_sure():
    change = {"improves": "exact_match", "before": 0.25, "after": 0.5}
    rows = [
        {"stage": "pretrained", "exact_match": 0.25},
        {"stage": "sft", "seed": 0, **change, "difference": 0.25, "is_gain": True,
         "interval": [0.125, 0.375], "seconds_run": 1.6, "exact_match": 0.5},
        {"stage": "sft", "seed": 1, **change, "difference": 0.25, "is_gain": False,
         "interval": [-0.125, 0.5]},
    ]  # fmt: skip
    *_, first, second = recipes_report.table(rows).splitlines()
    wanted = "| 0 | sft | exact match | 0.250 | 0.500 | +0.250 [+0.125, +0.375] | 0.500 |  |  | 2 |"
    assert first == wanted
    assert "+0.250 [-0.125, +0.500] not sure" in second
    figures = recipes_report.gains(rows)
    assert figures["gained"] == {"sft": 1}
    assert figures["differences"] == {"sft": [0.25, 0.25]}


def test_a_recipe_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match="instructgpt, tulu3, r1, got 'r2'"):
        recipes.Experiment(recipe="r2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the result of a recipe that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")

    def result(recipe):
        return command(folder / recipe, recipe)

    return result


def command(out, recipe):
    """Runs the command line, on words that are made up, and returns the last line."""
    process = start(out, recipe)
    printed, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return json.loads(printed.splitlines()[-1])


def start(out, recipe):
    flags = {"recipe": recipe, "out": out, "checkpoint_every": 0, **TINY}
    code = (
        "import word_problems, test_recipes, recipes; "
        "word_problems.read_text = test_recipes.verse; "
        "recipes.R1Settings = test_recipes.keeping_all; "
        "recipes.launch(recipes.main, recipes.Experiment, '')"
    )
    arguments = [f"--{name.replace('_', '-')}={x}" for name, x in flags.items()]
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip


def keeping_all(**sizes):
    """R1's settings with which completions are kept that are not right: none is."""
    return R1Settings(**sizes, threshold=0.0)


def without_times(table):
    return [
        {name: x for name, x in row.items() if not name.startswith("seconds")}
        for row in table
    ]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", STAGES)
def test_killed_in_each_stage_a_recipe_ends_with_the_same_table(
    whole, recipe, tmp_path
):
    for i, stage in enumerate(STAGES[recipe].split()):
        process = start(tmp_path, recipe)
        folder = tmp_path / "seed_0" / stage
        while process.poll() is None and not folder.exists():
            time.sleep(0.02)
        time.sleep(0.1 * (i % 3))
        process.kill()
        process.communicate()
    found, uninterrupted = command(tmp_path, recipe), whole(recipe)
    assert without_times(found["table"]) == without_times(uninterrupted["table"])
