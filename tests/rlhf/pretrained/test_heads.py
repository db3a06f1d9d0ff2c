"""Heads of reward models, found by the names of their weights."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_folders import change_config
from safetensors.numpy import load_file, save_file

from rljax.rlhf.pretrained.weights import (
    PretrainedError,
    load_reward_model,
    save,
    save_reward_model,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "pretrained"
ONE = np.linspace(-1, 1, 16, dtype=np.float32)[None]
TWO = np.concatenate([ONE, 2 - ONE])
BIAS = np.float32([0.5])
WIDE = np.linspace(-1, 1, 8 * 16, dtype=np.float32).reshape(8, 16)
LAYERS = {
    "score.0.weight": WIDE,
    "score.0.bias": WIDE[:, 0],
    "score.2.weight": WIDE[:1, :8],
    "score.2.bias": BIAS,
}


def folder_with(tmp_path, tensors, source="llama-reward", prefix="", **config):
    """A copy of a golden model with another head."""
    folder = shutil.copytree(GOLDEN / source, tmp_path / "model")
    kept = load_file(folder / "model.safetensors")
    kept.pop("score.weight", None)
    kept = {prefix + name: tensor for name, tensor in kept.items()}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(kept | tensors, folder / "model.safetensors")
    return change_config(folder, **{"architectures": ["AHeadOfOurOwn"]} | config)


@pytest.mark.parametrize(
    "tensors",
    [
        {"score.weight": ONE},
        {"score.weight": ONE, "score.bias": BIAS},
        {"v_head.summary.weight": ONE, "v_head.summary.bias": BIAS},
        {"value_head.weight": ONE},
        {"value_head.weight": ONE, "value_head.bias": BIAS},
    ],
    ids=lambda tensors: " ".join(tensors),
)
def test_a_linear_head_is_read_and_kept(tensors, tmp_path):
    module, variables = load_reward_model(folder_with(tmp_path, tensors))
    head = variables["params"]["head"]
    np.testing.assert_array_equal(head["kernel"], ONE.T)
    assert module.use_bias == ("bias" in head) == (len(tensors) == 2)
    if module.use_bias:
        np.testing.assert_array_equal(head["bias"], BIAS)
        with pytest.raises(PretrainedError, match="has a bias"):
            save_reward_model(tmp_path / "theirs", module, variables)
    save(tmp_path / "ours", module, variables)
    assert_same(load_reward_model(tmp_path / "ours"), (module, variables))


def test_two_layers_are_read_kept_and_computed(tmp_path):
    module, variables = load_reward_model(folder_with(tmp_path, LAYERS))
    assert module.use_bias
    assert module.head_hidden == 8
    hidden = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    score = module.apply(variables, hidden, method=lambda m, x: m._score(x))
    inner = np.maximum(hidden @ WIDE.T + LAYERS["score.0.bias"], 0)
    expected = inner @ LAYERS["score.2.weight"][0] + BIAS
    np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(PretrainedError, match="has a bias"):
        save_reward_model(tmp_path / "theirs", module, variables)
    save(tmp_path / "ours", module, variables)
    assert_same(load_reward_model(tmp_path / "ours"), (module, variables))


def test_two_layers_without_biases_are_not_transformers(tmp_path):
    tensors = {name: LAYERS[name] for name in ("score.0.weight", "score.2.weight")}
    module, variables = load_reward_model(folder_with(tmp_path, tensors))
    with pytest.raises(PretrainedError, match="two layers"):
        save_reward_model(tmp_path / "theirs", module, variables)


def test_the_models_own_init_makes_such_a_head():
    module, _ = load_reward_model(GOLDEN / "llama-reward")
    module = module.clone(head_hidden=8, use_bias=True)
    ids = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *ids))["params"]
    assert shapes["head_in"]["kernel"].shape == (16, 8)
    assert shapes["head"]["kernel"].shape == (8, 1)


@pytest.mark.parametrize("prefix", ["", "pretrained_model."])
def test_a_value_head_on_a_language_model_is_trl_s(prefix, tmp_path):
    folder = folder_with(
        tmp_path, {"v_head.summary.weight": ONE}, source="llama-lm", prefix=prefix
    )
    with pytest.warns(UserWarning, match="lm_head.weight beside"):
        _, variables = load_reward_model(folder)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], ONE.T)


def test_a_value_head_on_a_bare_trunk_is_read(tmp_path):
    folder = folder_with(tmp_path, {"v_head.summary.weight": ONE}, source="gpt2-reward")
    tensors = load_file(folder / "model.safetensors")
    bare = {n.removeprefix("transformer."): tensor for n, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors")
    _, variables = load_reward_model(folder)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], ONE.T)


@pytest.mark.parametrize("label", [1, "good"])
def test_a_label_of_several_is_one_score(label, tmp_path):
    names = {"id2label": {"0": "bad", "1": "good"}}
    folder = folder_with(tmp_path, {"score.weight": TWO}, **names)
    module, variables = load_reward_model(folder, label=label)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], TWO[1:].T)
    save_reward_model(tmp_path / "theirs", module, variables)
    assert_same(load_reward_model(tmp_path / "theirs"), (module, variables))


@pytest.mark.parametrize("label", [None, 2, -1, True, "fine", 1.0])
def test_a_label_that_is_none_of_several_is_refused(label, tmp_path):
    names = {"id2label": {"0": "bad", "1": "good"}}
    folder = folder_with(tmp_path, {"score.weight": TWO}, **names)
    with pytest.raises(
        PretrainedError, match=r"2 labels \(0 bad, 1 good\), got label="
    ):
        load_reward_model(folder, label=label)


def test_a_label_of_a_folder_of_our_own_is_refused(tmp_path):
    save(tmp_path, *load_reward_model(GOLDEN / "llama-reward"))
    with pytest.raises(PretrainedError, match="label must be None"):
        load_reward_model(tmp_path, label=0)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"score.weight": ONE, "v_head.summary.weight": ONE},
            "one head, got score.weight, v_head.summary.weight",
        ),
        ({"score.weight": ONE[:, :8]}, r"\[labels, 16\], got \[1, 8\]"),
        ({"score.weight": ONE[0]}, r"\[labels, 16\], got \[16\]"),
        ({"score.weight": ONE, "score.bias": WIDE[:3, 0]}, r"must be \[1\], got \[3\]"),
        ({"score.2.weight": ONE}, "no weight score.0.weight"),
        (LAYERS | {"score.2.weight": ONE}, r"\[labels, 8\], got \[1, 16\]"),
        (
            {name: t for name, t in LAYERS.items() if name != "score.2.bias"},
            "both have a bias or neither",
        ),
        ({"score.weight": ONE, "score.scale": ONE}, "no place for: score.scale"),
        ({"v_head.weight": ONE}, "no reward model"),
    ],
)
def test_a_head_of_another_kind_is_refused(tensors, message, tmp_path):
    with pytest.raises(PretrainedError, match=message):
        load_reward_model(folder_with(tmp_path, tensors))


def assert_same(ours, theirs):
    assert ours[0] == theirs[0]
    jax.tree.map(np.testing.assert_array_equal, ours[1], theirs[1])


def test_what_transformers_class_does_not_have_is_passed_over(tmp_path):
    kinds = {"architectures": ["LlamaForSequenceClassification"]}
    folder = folder_with(tmp_path, {"score.weight": ONE, "score.bias": BIAS}, **kinds)
    with pytest.warns(UserWarning, match="score.bias, which transformers"):
        module, _ = load_reward_model(folder)
    assert not module.use_bias


def test_a_model_that_scores_every_token_is_refused(tmp_path):
    kinds = {"architectures": ["LlamaForTokenClassification"]}
    folder = folder_with(tmp_path, {"score.weight": ONE, "score.bias": BIAS}, **kinds)
    with pytest.raises(PretrainedError, match="scores every token"):
        load_reward_model(folder)


def test_labels_may_be_numbers(tmp_path):
    names = {"id2label": {"0": "1", "1": "2"}}
    folder = folder_with(tmp_path, {"score.weight": TWO}, **names)
    for label, row in (("1", ONE), ("2", 2 - ONE), ("0", ONE), (1, 2 - ONE)):
        _, variables = load_reward_model(folder, label=label)
        np.testing.assert_array_equal(variables["params"]["head"]["kernel"], row.T)
