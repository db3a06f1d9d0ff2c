"""Hostile folders are refused in words; what is harmless is passed over with a warning."""

import json
import shutil
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from model_folders import change_config
from safetensors.numpy import load_file, save_file

from rljax.rlhf.pretrained import weights
from rljax.rlhf.pretrained.weights import PretrainedError
from rljax.training.files import FolderError

GOLDEN = Path(__file__).parents[2] / "golden" / "pretrained"


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


def name_a_missing_file(folder, tensors):
    index = {"weight_map": dict.fromkeys(tensors, "model-2.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickle_the_weights(folder, tensors):
    (folder / "model.safetensors").rename(folder / "pytorch_model-00001.bin")
    (folder / "optimizer.pt").touch()


def quantize_the_weights(folder, tensors):
    (folder / "model.safetensors").rename(folder / "model-Q4.gguf")


def be_an_adapter(folder, tensors):
    for file in folder.iterdir():
        file.unlink()
    (folder / "adapter_model.bin").touch()
    base = {"base_model_name_or_path": "someone/base"}
    (folder / "adapter_config.json").write_text(json.dumps(base))


def have_an_adapter_beside(folder, tensors):
    save_file({"x": np.zeros(1)}, folder / "adapter_model.safetensors")


def have_a_short_vocabulary(folder, tensors):
    save(folder, tensors | {"model.embed_tokens.weight": np.ones((20, 16), "f")})


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


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (drop_a_weight, "no weight model.norm.weight"),
        (add_a_weight, "model.extra.weight"),
        (change_a_shape, r"\[3\], not \[16\]"),
        (poison_a_weight, "not finite"),
        (poison_the_head, "not finite"),
        (forget_the_head, "no reward model"),
        (truncate, "not a whole safetensors file"),
        (claim_a_huge_header, "not a whole safetensors file"),
        (write_text, "not a whole safetensors file"),
        (lose_the_weights, "missing"),
        (point_outside, "outside the folder"),
        (link_outside, "outside the folder"),
        (name_a_missing_file, "model-2.safetensors is missing"),
        (
            pickle_the_weights,
            r"-00001.bin, a pickle.*SequenceClassification as M; .*model'\).*NEW",
        ),
        (quantize_the_weights, "model-Q4.gguf: only safetensors"),
        (
            be_an_adapter,
            r"of the model someone/base.*AutoPeftModelForSeq.*num_labels=1.*merge_and_un",
        ),
        (have_an_adapter_beside, "an adapter of the model unknown"),
        (have_a_short_vocabulary, r"\[20, 16\], not \[24, 16\]"),
        (break_the_config, "not JSON"),
        (lose_the_config, "missing"),
        (be_another_kind, "'t5'"),
        (forget_the_width, "no hidden_size"),
        (have_text_for_a_number, "num_hidden_layers must be a whole number"),
        (have_no_heads, "by zero"),
    ],
)
def test_a_harmed_folder_is_refused_in_words(folder, harm, message):
    harm(folder, load_file(folder / "model.safetensors"))
    with pytest.raises(ValueError, match=message) as caught:
        weights.load_reward_model(folder)
    assert isinstance(caught.value, FolderError)


def add_a_language_models_head(folder, tensors):
    save(folder, tensors | {"lm_head.weight": np.ones((24, 16), "f")})


def name_a_missing_weight(folder, tensors):
    places = dict.fromkeys([*tensors, "nothing"], "model.safetensors")
    index = {"weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pad_the_vocabulary(folder, tensors):
    embedding = tensors["model.embed_tokens.weight"]
    more = np.concatenate([embedding, embedding[:8]])
    save(folder, tensors | {"model.embed_tokens.weight": more})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_a_language_models_head, "lm_head.weight beside"),
        (name_a_missing_weight, "names nothing, which"),
        (pad_the_vocabulary, "32 rows for a vocab_size of 24"),
    ],
)
def test_what_changes_no_score_is_passed_over_with_a_warning(folder, change, message):
    module, variables = weights.load_reward_model(folder)
    change(folder, load_file(folder / "model.safetensors"))
    with pytest.warns(UserWarning, match=message):
        again, read = weights.load_reward_model(folder)
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, read, variables)


def test_a_weight_that_is_needed_must_be_where_the_index_says(folder):
    tensors = load_file(folder / "model.safetensors")
    name_a_missing_weight(folder, tensors)
    drop_a_weight(folder, tensors)
    with (
        pytest.warns(UserWarning, match="names model.norm.weight, nothing"),
        pytest.raises(PretrainedError, match=r"no weight model.norm.weight"),
    ):
        weights.load_reward_model(folder)


def test_a_tied_head_must_equal_the_embedding(tmp_path):
    folder = shutil.copytree(GOLDEN / "qwen2-lm", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    save(folder, tensors | {"lm_head.weight": embedding})
    weights.load_language_model(folder)
    save(folder, tensors | {"lm_head.weight": embedding + 1})
    with pytest.raises(PretrainedError, match="tie_word_embeddings to false"):
        weights.load_language_model(folder)
