"""Scores and tokens beside transformers and TRL: `make test-peers`."""

import datetime
import importlib.resources
import json
import warnings

import numpy as np
import pytest
from chats import CHATS
from tokenizer_folders import write_byte_level, write_sentence_piece

from rljax.rlhf.data import (
    EncodingConfig,
    EncodingError,
    Pair,
    encode_pairs,
    load_tokenizer,
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
    print(json.dumps({"templates": len(templates), "chats": len(CHATS)} | seen))


def encoding_on(date, tokenizer, template):
    from rljax.rlhf.data import encoding_config

    return encoding_config(
        tokenizer, max_length=10**6, template=template, date=date, allow_empty=True
    )
