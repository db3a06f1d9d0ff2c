"""Models as transformers wrote them (tests/golden/make_pretrained.py)."""

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
from model_folders import change_config
from safetensors.numpy import load_file, save_file

from rljax.rlhf.models.reward_model import stack_ensemble
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.pretrained import weights
from rljax.rlhf.pretrained.weights import PretrainedError

GOLDEN = Path(__file__).parents[2] / "golden" / "pretrained"
FAMILIES = ["gpt2", "gemma2", "llama", "llama3", "mistral", "qwen2", "qwen3"]
# Between them every head: tied, bounded, with an offset of positions, of its own.
LANGUAGE_MODELS = ["gpt2", "gemma2", "llama3", "qwen2"]
KINDS = {
    "lm": (weights.load_language_model, weights.save_language_model),
    "reward": (weights.load_reward_model, weights.save_reward_model),
}


def golden(folder):
    return json.loads((folder / "golden.json").read_text())


@pytest.mark.some_cases(2)
@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_logits_are_transformers(family):
    folder = GOLDEN / f"{family}-lm"
    module, variables = weights.load_language_model(folder)
    ids = jnp.array([golden(folder)["ids"]], jnp.int32)
    logits = jax.jit(functools.partial(module.apply, method=Transformer.logits))(
        variables, ids
    )[0]
    np.testing.assert_allclose(logits, golden(folder)["out"], rtol=0, atol=2e-5)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_transformers(family):
    folder = GOLDEN / f"{family}-reward"
    module, variables = weights.load_reward_model(folder)
    expected = golden(folder)
    ids, lengths = (jnp.array(expected[x], jnp.int32) for x in ("ids", "lengths"))
    scores = jax.jit(module.apply)(variables, ids, lengths)
    np.testing.assert_allclose(scores, expected["out"], rtol=0, atol=2e-5)


@pytest.mark.some_cases(5)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["lm", "reward"])
def test_models_survive_saving(family, kind, tmp_path):
    folder = GOLDEN / f"{family}-{kind}"
    load, save = KINDS[kind]
    module, variables = load(folder)
    save(tmp_path / "saved", module, variables)
    module_again, again = load(tmp_path / "saved")
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


@pytest.mark.parametrize("name", ["gpt2-lm", "gemma2-lm", "qwen3-reward"])
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
    load, _ = KINDS[name.split("-")[1]]
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
    _, variables = weights.load_reward_model(folder)
    _, whole = weights.load_reward_model(GOLDEN / "llama-reward")
    jax.tree.map(np.testing.assert_array_equal, variables, whole)


def test_an_old_config_reads_as_a_new_one(tmp_path):
    folder = shutil.copytree(GOLDEN / "llama3-reward", tmp_path / "model")
    new, _ = weights.load_reward_model(folder)
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config))
    old, _ = weights.load_reward_model(folder)
    assert old == new


@pytest.mark.parametrize(
    ("given", "read"), [(0, 0), (7, 7), (None, None), (-1, None), (..., None)]
)
def test_the_id_of_padding_is_kept(folder, given, read, tmp_path):
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": given}
    config = {name: value for name, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    module, variables = weights.load_reward_model(folder)
    assert module.pad_id == read
    weights.save_reward_model(tmp_path / "theirs", module, variables)
    written = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert written["pad_token_id"] == read
    weights.save(tmp_path / "ours", module, variables)
    assert weights.load_reward_model(tmp_path / "ours")[0] == module


@pytest.mark.parametrize("given", [True, 1.0, "0"])
def test_the_id_of_padding_is_a_whole_number(folder, given):
    change_config(folder, pad_token_id=given)
    with pytest.raises(PretrainedError, match=f"token's id or null, got {given!r}"):
        weights.load_reward_model(folder)


def test_gemma_2_has_an_id_of_padding_without_naming_it(tmp_path):
    folder = shutil.copytree(GOLDEN / "gemma2-reward", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["pad_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    assert weights.load_reward_model(folder)[0].pad_id == 0


def test_what_transformers_has_no_class_for_is_not_written(tmp_path):
    module, variables = weights.load_reward_model(GOLDEN / "gemma2-reward")
    scaled = variables | {"scale": {"mean": jnp.float32(1), "std": jnp.float32(2)}}
    many = stack_ensemble([variables, variables])
    for given, reason in ((scaled, "normalizes"), (many, "ensemble")):
        with pytest.raises(PretrainedError, match=reason):
            weights.save_reward_model(tmp_path / "saved", module, given)
        assert not (tmp_path / "saved").exists()
        weights.save(tmp_path / reason, module, given)
        again, read = weights.load_reward_model(tmp_path / reason)
        assert again == module
        jax.tree.map(np.testing.assert_array_equal, read, given)


def test_our_own_format_reads_what_an_older_rljax_wrote(tmp_path):
    module, variables = weights.load_reward_model(GOLDEN / "gpt2-reward")
    weights.save(tmp_path, module, variables)
    path = tmp_path / "rljax.json"
    older = json.loads(path.read_text())
    for name in ("pad_id", "head_hidden"):
        del older[name]
    for name in (
        "windows", "norm_offset", "post_norms", "activation", "attention_scale",
        "attention_softcap", "logit_softcap", "embed_scale",
    ):  # fmt: skip
        del older["config"][name]
    path.write_text(json.dumps(older))
    again, read = weights.load_reward_model(tmp_path)
    assert again == module.clone(pad_id=None)
    jax.tree.map(np.testing.assert_array_equal, read, variables)


def test_our_own_format_is_read_strictly(tmp_path):
    def save(folder, tensors):
        save_file(tensors, folder / "model.safetensors")

    module, variables = weights.load_reward_model(GOLDEN / "gpt2-reward")
    weights.save(tmp_path, module, variables)
    tensors = load_file(tmp_path / "model.safetensors")
    save(tmp_path, {n: t for n, t in tensors.items() if "head" not in n})
    with pytest.raises(PretrainedError, match="no weight params/head/kernel"):
        weights.load_reward_model(tmp_path)
    save(tmp_path, tensors | {"params/head/kernel": np.ones((2, 2), "f")})
    with pytest.raises(PretrainedError, match=r"\[2, 2\], not \[16, 1\]"):
        weights.load_reward_model(tmp_path)
    save(tmp_path, tensors)
    (tmp_path / "rljax.json").write_text('{"format": 2}')
    with pytest.raises(PretrainedError, match="format must be 1, got 2"):
        weights.load_reward_model(tmp_path)
