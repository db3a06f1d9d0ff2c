"""Writes reward models with tokenizers, and their scores: `python make_scoring.py`.

Needs torch and transformers, which the tests do not.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent / "scoring"
sys.path.insert(0, str(HERE.parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from chats import CHATS  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from tokenizer_folders import write_byte_level, write_sentence_piece  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
)

PADS = {"eos": 2, "distinct": 3, "none": None}
TEMPLATE = (
    "{% for m in messages %}{% generation %}<|im_start|>{{ m.role }}\n"
    "{% if 'tool_calls' in m %}{{ m.tool_calls | tojson(indent=1) }}{% endif %}"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endgeneration %}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}{{ eos_token }}"
)
TEXTS = [
    ("Is it warm?\n", "Very, since noon."),
    ("Is it warm?\n", "\n\nVery."),
    ("Is it warm? ", "Very"),
    ("Is it", " warm?\n\n"),
    ("", "Very, since noon.</s>"),
    ("<s>Human: what now?", " Nothing."),
    ("Ist es wärmer? 🔥", "日本語 … ❤️"),
]


def expected_ids(tokenizer, prompt, completion, variables, template):
    """A chat as the template writes it; a text as TRL's RewardTrainer ends it."""
    if template is not None:
        return tokenizer.apply_chat_template(
            [*prompt, completion],
            chat_template=template,
            return_dict=False,
            **variables,
        )
    text = prompt + completion
    if tokenizer.eos_token and not text.endswith(tokenizer.eos_token):
        text += tokenizer.eos_token
    ids = tokenizer(text)["input_ids"]
    begun = text.startswith(tokenizer.bos_token or "\0")
    return ids[1:] if begun and ids[:2] == [tokenizer.bos_token_id] * 2 else ids


def expected_score(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits.item()


def main():
    for write in (write_byte_level, write_sentence_piece):
        folder = write(HERE / write.__name__.removeprefix("write_"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=512, initializer_range=0.3, num_labels=1,
        )  # fmt: skip
        model = AutoModelForSequenceClassification.from_config(config).eval().float()
        model.save_pretrained(folder)
        file = folder / "model.safetensors"
        half = {k: v.astype(np.float16) for k, v in load_file(file).items()}
        save_file(half, file, metadata={"format": "pt"})
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        rows = [(None, *pair, {}) for pair in TEXTS]
        rows += [
            (TEMPLATE, messages[:-1], messages[-1], variables)
            for messages, variables in CHATS.values()
        ]
        golden = []
        for template, prompt, completion, variables in rows:
            ids = expected_ids(tokenizer, prompt, completion, variables, template)
            scores = {}
            for name, pad_id in PADS.items():
                model.config.pad_token_id = pad_id
                scores[name] = round(expected_score(model, ids), 6)
            golden.append(
                {
                    "template": template is not None,
                    "pair": [prompt, completion, variables],
                    "ids": ids,
                    "scores": scores,
                }
            )
        text = json.dumps({"template": TEMPLATE, "pads": PADS, "rows": golden})
        (folder / "golden.json").write_text(text)


if __name__ == "__main__":
    main()
