"""Scores and tokens beside transformers and TRL: `make test-peers`."""

import datetime
import importlib.resources
import warnings

import numpy as np
import pytest
from chats import CHATS
from model_folders import change_config
from tokenizer_folders import write_byte_level, write_sentence_piece

from rljax.rlhf.data import (
    EncodingError,
    Pair,
    encode_pairs,
    encoding_config,
    load_tokenizer,
)
from rljax.rlhf.scoring import Scorer

pytest.importorskip("torch")  # not in every peer's environment
from golden.make_scoring import (
    TEMPLATE,
    TEXTS,
    expected_ids,
    expected_score,
)

pytestmark = pytest.mark.peers

CONSTRUCTS = {
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}",
    "date": "{{ strftime_now('%d %b %Y, %-d %B %y %A') }}\n"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "date if there is one": "  {% if strftime_now is defined %}\n"
    "{%- set today = strftime_now('%Y-%m-%d') %}{% endif %}\n"
    "{% for m in messages %}{{ today }} {{ m.content }}{% endfor %}",
    "null": "{% for m in messages %}{% if 'tool_calls' in m %}T{{ m.tool_calls | length }}"
    "{% endif %}{{ m.content }}{% endfor %}",
    "dict": "{% set seen = dict(a=1) %}{{ seen.a }}{{ dict.fromkeys([1, 2]) | length }}"
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 "
    "%}{{ ns.n }}{{ m.content }}{% endfor %}",
    "special": "{{ bos_token }}{{ unk_token }}{% for m in messages %}{{ m.content }}"
    "{{ eos_token }}{{ pad_token }}{% endfor %}",
    "tojson": "{{ tools | tojson(indent=2) }}{{ messages | tojson(sort_keys=True, "
    "separators=(',', ':')) }}",
    "thought": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "break": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
    "{{ m.content }}{% endfor %}",
    "refuses": "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}",
    "documents": "{% for d in documents or [] %}{{ d.title }}{% endfor %}"
    "{% for m in messages %}{{ m.content }}{{ m.reasoning_content }}{% endfor %}",
    "no prompts": "{% if add_generation_prompt %}{{ raise_exception('no') }}{% endif %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}",
}


def trls_templates():
    folder = importlib.resources.files("trl") / "chat_templates"
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".jinja")
    }


@pytest.fixture(scope="module", params=[write_byte_level, write_sentence_piece])
def folder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("source", ["trl", "constructs"])
def test_transformers_templates_give_the_same_tokens(source, folder):
    from transformers import AutoTokenizer

    templates = trls_templates() if source == "trl" else CONSTRUCTS
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    today = datetime.date.today()
    seen = {"equal": 0, "refused": 0}
    assert len(templates) > (60 if source == "trl" else 12)
    for name, template in templates.items():
        for chat, (messages, variables) in CHATS.items():
            try:
                want = theirs.apply_chat_template(
                    messages, chat_template=template, return_dict=False, **variables
                )
            except Exception:
                want = None
            encoding = encoding_on(today, ours, template)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the chat template does not use")
                (got,) = encode_pairs(
                    ours, [Pair(messages[:-1], messages[-1], variables)], encoding
                )
            where = f"{name}, {chat}"
            if want is None:
                assert isinstance(got, EncodingError), where
                seen["refused"] += 1
            else:
                assert not isinstance(got, EncodingError), f"{where}: {got}"
                assert got.ids == want, where
                assert 0 <= got.num_prompt <= len(got.ids)
                seen["equal"] += 1
    assert seen["equal"] > 12 * len(templates)


def encoding_on(date, tokenizer, template):
    return encoding_config(
        tokenizer, max_length=10**6, template=template, date=date, allow_empty=True
    )


SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
}
WINDOW = {"sliding_window": 8}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES = {
    "llama": ("LlamaConfig", SHAPE),
    "llama3": ("LlamaConfig", SHAPE | {"rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", SHAPE | WINDOW),
    "qwen2": (
        "Qwen2Config",
        SHAPE | WINDOW | {"use_sliding_window": True, "max_window_layers": 2},
    ),
    "qwen3": ("Qwen3Config", SHAPE),
    "gemma2": (
        "Gemma2Config",
        SHAPE | WINDOW | {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    ),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 1024}
        | {"initializer_range": 0.3},
    ),
}
PADS = {"eos": 2, "distinct": 3, "none": None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("write", [write_byte_level, write_sentence_piece])
def test_transformers_scores_are_ours(family, write, tmp_path):
    difference = {
        (pad, template): largest_difference(
            family, write, pad, template, tmp_path / f"{pad}-{template}"
        )
        for pad in PADS
        for template in (True, False)
    }
    assert max(difference.values()) < 2e-5, difference


def largest_difference(family, write, pad, template, folder):
    """In units of the scores' deviation, over texts or chats."""
    write(folder)
    model, tokenizer = write_model(family, folder, PADS[pad])
    if template:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        pairs = [(m[:-1], m[-1], variables) for m, variables in CHATS.values()]
    else:
        pairs = [(*pair, {}) for pair in [*TEXTS, ("Very warm. " * 40, "very " * 40)]]
    source = TEMPLATE if template else None
    want = np.array(
        [
            expected_score(model, expected_ids(tokenizer, *pair, source))
            for pair in pairs
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        got = Scorer.load(folder, max_tokens=4096, allow_empty=True).score(pairs)
    return np.abs(got - want).max() / np.std(want)


def write_model(family, folder, pad_id):
    """A random reward model of a family, with biases and norms that matter."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kind, shape = FAMILIES[family]
    config = getattr(transformers, kind)(
        vocab_size=len(tokenizer), num_labels=1, **shape, pad_token_id=pad_id
    )
    torch.manual_seed(len(family))
    kwargs = {"attn_implementation": "eager"}
    auto = transformers.AutoModelForSequenceClassification
    model = auto.from_config(config, **kwargs).float()
    for weight in model.parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, 0.0 if family == "gemma2" else 1.0, 0.3)
    model.save_pretrained(folder)
    model = auto.from_pretrained(folder, dtype=torch.float32, **kwargs).eval()
    # Beside a config.json, transformers may take another class for the same files.
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def test_transformers_soft_caps_and_windows_matter_here(tmp_path):
    for name, change in (
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", WINDOW | {"sliding_window": 4096}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"use_sliding_window": False, "layer_types": None}),
    ):
        folder = write_byte_level(tmp_path / name / str(change))
        write_model(name, folder, None)
        before = Scorer.load(folder).score(TEXTS)
        change_config(folder, **change)
        after = Scorer.load(folder).score(TEXTS)
        assert np.abs(after - before).max() > 1e-2, name
