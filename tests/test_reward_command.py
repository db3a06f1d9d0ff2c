"""The command `rljax reward`, from its files to a folder that others read."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizer_folders

import rljax.commands.reward_run
from rljax.commands.reward import Reward, reward
from rljax.rlhf import (
    Scorer,
    Transformer,
    TransformerConfig,
    load_language_model,
    save_language_model,
)
from rljax.training.files import RunError
from rljax.training.run_folder import RunOptions, UsageError

SHAPE = TransformerConfig(
    vocab_size=400, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, max_length=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A language model, and preferences for what is warm."""
    folder = tmp_path_factory.mktemp("reward")
    module, first = Transformer(SHAPE), jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: module.init(key, first, method="logits"))
    save_language_model(folder / "model", module, init(jax.random.key(0)))
    tokenizer_folders.write_byte_level(folder / "model")
    rows = [
        {"prompt": "Is it warm?", "chosen": f" Very warm {i}", "rejected": f" cold {i}"}
        for i in range(40)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(text)
    return folder


def command(made, out, **changes):
    options = RunOptions(out=out, checkpoint_every=0.0)
    flags = {
        "model": made / "model",
        "data": made / "train.jsonl",
        "batch_size": 8,
        "num_microbatches": 2,
        "run": options,
    }
    return Reward(**flags | changes)


@pytest.fixture(scope="module")
def whole(made):
    out = made / "whole"
    return out, reward(command(made, out))


def test_a_folder_and_its_figures_are_what_comes_out(made, whole):
    out, result = whole
    assert result["train_pairs"] == 32
    assert result["pairs"] == 4
    assert 0 <= result["pair_accuracy"] <= 1
    assert len(result["pair_accuracy_ci95"]) == 2
    assert (out / "evaluation.html").exists()
    assert json.loads((out / "result.json").read_text()) == result
    scores = Scorer.load(out / "model").score([("Is it warm?", " Very"), ("a", "b")])
    assert np.isfinite(scores).all()
    assert reward(command(made, out)) == result  # finished: repeated


def test_it_goes_on_where_it_was_stopped_bit_for_bit(made, whole, monkeypatch):
    out = made / "stopped"
    train = rljax.commands.reward_run.train

    def short(algorithm, state, task, num_updates, **how):
        train(algorithm, state, task, 2, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(rljax.commands.reward_run, "train", short)
    with pytest.raises(KeyboardInterrupt):
        reward(command(made, out))
    monkeypatch.undo()
    again = reward(command(made, out))
    same = ("pair_accuracy", "nll", "ece")
    assert [again[name] for name in same] == [whole[1][name] for name in same]
    files = [path / "model" / "model.safetensors" for path in (out, whole[0])]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("train", ["last", "lora", "head"])
@pytest.mark.slow
def test_a_part_is_trained_and_the_rest_stays(made, train):
    out = made / train
    reward(command(made, out, train=train, last_layers=1))
    before = load_language_model(made / "model")[1]["params"]
    after = Scorer.load(out / "model")._variables["params"]["trunk"]
    changed = {
        jax.tree_util.keystr(path): not np.array_equal(leaf, other)
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(after),
            jax.tree.leaves({k: x for k, x in before.items() if k != "lm_head"}),
            strict=True,
        )
    }
    kernels = [name for name in changed if "kernel" in name]
    assert all(changed[name] == (train != "head") for name in kernels)
    assert not changed["['embed']['embedding']"]


def test_other_files_or_flags_are_refused(made, whole):
    with pytest.raises(UsageError, match=r"flags.batch_size is 8 there and 16 here"):
        reward(command(made, whole[0], batch_size=16))
    other = made / "other.jsonl"
    shutil.copy(made / "train.jsonl", other)
    other.write_text(other.read_text().replace("warm 3", "warm 4"))
    with pytest.raises(UsageError, match="data_sha256"):
        reward(command(made, whole[0], data=other))


def test_errors_say_what_to_do(made, tmp_path):
    with pytest.raises(ValueError, match="Name one with --out"):
        Reward(model=made, data=made)
    with pytest.raises(RunError, match="Give a --model"):
        reward(command(made, tmp_path / "a", data=tmp_path / "none.jsonl"))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(RunError, match="at least two preferences, got 0"):
        reward(command(made, tmp_path / "b", data=empty))
