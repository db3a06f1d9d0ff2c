"""Models as transformers wrote them (tests/golden/make_pretrained.py), and hostile ones."""

import functools
import json
import shutil
import struct
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rljax.rlhf.models import hf_weights
from rljax.rlhf.models.hf_weights import PretrainedError
from rljax.rlhf.models.reward_model import stack_ensemble
from rljax.rlhf.models.transformer import Transformer
from rljax.training.files import FolderError

GOLDEN = Path(__file__).parents[2] / "golden" / "pretrained"
FAMILIES = ["gpt2", "llama", "llama3", "qwen2", "qwen3"]


def golden(folder):
    return json.loads((folder / "golden.json").read_text())


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN / "llama-reward", tmp_path / "model")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_transformers_and_survive_saving(family, tmp_path):
    folder = GOLDEN / f"{family}-lm"
    module, variables = hf_weights.load_language_model(folder)
    ids = jnp.array([golden(folder)["ids"]], jnp.int32)
    logits = jax.jit(functools.partial(module.apply, method=Transformer.logits))(
        variables, ids
    )[0]
    np.testing.assert_allclose(logits, golden(folder)["out"], rtol=0, atol=2e-5)
    hf_weights.save_language_model(tmp_path / "saved", module, variables)
    module_again, again = hf_weights.load_language_model(tmp_path / "saved")
    assert module_again == module
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    assert_names_are_theirs(tmp_path / "saved", folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_transformers_and_survive_saving(family, tmp_path):
    folder = GOLDEN / f"{family}-reward"
    module, variables = hf_weights.load_reward_model(folder)
    expected = golden(folder)
    ids, lengths = (jnp.array(expected[x], jnp.int32) for x in ("ids", "lengths"))
    scores = jax.jit(module.apply)(variables, ids, lengths)
    np.testing.assert_allclose(scores, expected["out"], rtol=0, atol=2e-5)
    hf_weights.save_reward_model(tmp_path / "saved", module, variables)
    module_again, again = hf_weights.load_reward_model(tmp_path / "saved")
    assert module_again == module
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    assert_names_are_theirs(tmp_path / "saved", folder)


def assert_names_are_theirs(saved, folder):
    """The very tensors transformers wrote, bit for bit, in the file that it can read."""
    ours = load_file(saved / "model.safetensors")
    theirs = load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor.astype(np.float32))
    raw = (saved / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    assert json.loads(raw[8 : 8 + size])["__metadata__"] == {"format": "pt"}


@pytest.mark.parametrize("name", ["gpt2-lm", "llama3-lm", "qwen3-reward"])
def test_names_may_lack_the_familys_prefix(name, tmp_path):
    """As those of openai-community/gpt2 do, and those of every bare trunk."""
    folder = shutil.copytree(GOLDEN / name, tmp_path / name)
    tensors = load_file(folder / "model.safetensors")
    bare = {
        k.removeprefix("transformer.").removeprefix("model."): v
        for k, v in tensors.items()
    }
    assert bare.keys() != tensors.keys()
    save_file(bare, folder / "model.safetensors")
    load = (
        hf_weights.load_reward_model
        if "reward" in name
        else hf_weights.load_language_model
    )
    chex.assert_trees_all_equal(load(folder)[1], load(GOLDEN / name)[1])


def test_shards_are_read(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for i, name in enumerate(tensors):
        places[name] = f"model-{i % 2}.safetensors"
    for file in set(places.values()):
        save_file(
            {n: t for n, t in tensors.items() if places[n] == file}, folder / file
        )
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    _, variables = hf_weights.load_reward_model(folder)
    _, whole = hf_weights.load_reward_model(GOLDEN / "llama-reward")
    jax.tree.map(np.testing.assert_array_equal, variables, whole)


def test_an_old_config_reads_as_a_new_one(tmp_path):
    folder = shutil.copytree(GOLDEN / "llama3-reward", tmp_path / "model")
    new, _ = hf_weights.load_reward_model(folder)
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config))
    old, _ = hf_weights.load_reward_model(folder)
    assert old == new


def save(folder, tensors):
    save_file(tensors, folder / "model.safetensors")


def drop_a_weight(folder, tensors):
    save(folder, {n: t for n, t in tensors.items() if n != "model.norm.weight"})


def add_a_weight(folder, tensors):
    save(folder, tensors | {"model.extra.weight": np.zeros(2)})


def change_a_shape(folder, tensors):
    save(folder, tensors | {"model.norm.weight": np.ones(3, "f")})


def poison_a_weight(folder, tensors):
    save(folder, tensors | {"model.norm.weight": np.full(16, np.nan, "f")})


def poison_the_head(folder, tensors):
    save(folder, tensors | {"score.weight": np.full((1, 16), np.inf, "f")})


def forget_the_head(folder, tensors):
    save(folder, {n: t for n, t in tensors.items() if n != "score.weight"})


def score_twice(folder, tensors):
    save(folder, tensors | {"score.weight": np.ones((2, 16), "f")})


def truncate(folder, tensors):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def claim_a_huge_header(folder, tensors):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def write_text(folder, tensors):
    (folder / "model.safetensors").write_text("not tensors")


def lose_the_weights(folder, tensors):
    (folder / "model.safetensors").unlink()


def point_outside(folder, tensors):
    save_file(tensors, folder.parent / "x")
    index = {"weight_map": dict.fromkeys(tensors, "../x")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def link_outside(folder, tensors):
    path = folder / "model.safetensors"
    path.rename(folder.parent / "x")
    path.symlink_to(folder.parent / "x")


def name_a_missing_weight(folder, tensors):
    index = {"weight_map": {"nothing": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def break_the_config(folder, tensors):
    (folder / "config.json").write_text("{")


def lose_the_config(folder, tensors):
    (folder / "config.json").unlink()


def be_another_kind(folder, tensors):
    change_config(folder, model_type="t5")


def forget_the_width(folder, tensors):
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))


def have_text_for_a_number(folder, tensors):
    change_config(folder, num_hidden_layers="two")


def have_no_heads(folder, tensors):
    change_config(folder, num_attention_heads=0, head_dim=None)


def scale_otherwise(folder, tensors):
    change_config(folder, rope_parameters={"rope_type": "yarn", "factor": 2.0})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (drop_a_weight, "no weight model.norm.weight"),
        (add_a_weight, "model.extra.weight"),
        (change_a_shape, r"\[3\], not \[16\]"),
        (poison_a_weight, "not finite"),
        (poison_the_head, "not finite"),
        (forget_the_head, "no reward model"),
        (score_twice, "num_labels 1"),
        (truncate, "not a whole safetensors file"),
        (claim_a_huge_header, "not a whole safetensors file"),
        (write_text, "not a whole safetensors file"),
        (lose_the_weights, "missing"),
        (point_outside, "outside the folder"),
        (link_outside, "outside the folder"),
        (name_a_missing_weight, "names nothing"),
        (break_the_config, "not JSON"),
        (lose_the_config, "missing"),
        (be_another_kind, "'t5'"),
        (forget_the_width, "no hidden_size"),
        (have_text_for_a_number, "num_layers must be a whole number"),
        (have_no_heads, "by zero"),
        (scale_otherwise, "'yarn'"),
    ],
)
def test_a_harmed_folder_is_refused_in_words(folder, harm, message):
    harm(folder, load_file(folder / "model.safetensors"))
    with pytest.raises(ValueError, match=message) as caught:
        hf_weights.load_reward_model(folder)
    assert isinstance(caught.value, FolderError)


def test_what_transformers_has_no_class_for_is_not_written(tmp_path):
    module, variables = hf_weights.load_reward_model(GOLDEN / "llama-reward")
    scaled = variables | {"scale": {"mean": jnp.float32(1), "std": jnp.float32(2)}}
    many = stack_ensemble([variables, variables])
    for given, reason in ((scaled, "normalizes"), (many, "ensemble")):
        with pytest.raises(PretrainedError, match=reason):
            hf_weights.save_reward_model(tmp_path / "saved", module, given)
        assert not (tmp_path / "saved").exists()
        hf_weights.save(tmp_path / reason, module, given)
        again, read = hf_weights.load_reward_model(tmp_path / reason)
        assert again == module
        jax.tree.map(np.testing.assert_array_equal, read, given)


def test_our_own_format_is_read_strictly(tmp_path):
    module, variables = hf_weights.load_reward_model(GOLDEN / "gpt2-reward")
    hf_weights.save(tmp_path, module, variables)
    tensors = load_file(tmp_path / "model.safetensors")
    save(tmp_path, {n: t for n, t in tensors.items() if "head" not in n})
    with pytest.raises(PretrainedError, match="no weight params/head/kernel"):
        hf_weights.load_reward_model(tmp_path)
    save(tmp_path, tensors | {"params/head/kernel": np.ones((2, 2), "f")})
    with pytest.raises(PretrainedError, match=r"\[2, 2\], not \[16, 1\]"):
        hf_weights.load_reward_model(tmp_path)
    save(tmp_path, tensors)
    (tmp_path / "rljax.json").write_text('{"format": 2}')
    with pytest.raises(PretrainedError, match="format must be 1, got 2"):
        hf_weights.load_reward_model(tmp_path)
