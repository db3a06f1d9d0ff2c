"""Writes the golden models beside this file: `python make_pretrained.py [FAMILY ...]`.

Needs torch and transformers, which the tests do not.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

HERE = Path(__file__).parent / "pretrained"
SHAPE = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "llama3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3, attention_bias=True),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "gpt2": GPT2Config(
        vocab_size=24, n_embd=16, n_layer=2, n_head=4, n_positions=40, n_inner=24,
        initializer_range=0.3, pad_token_id=0,
    ),
    # Windows that are shorter than the rows, and bounds that are felt.
    "mistral": MistralConfig(**SHAPE, sliding_window=8, head_dim=8),
    "gemma2": Gemma2Config(
        **SHAPE | {"num_hidden_layers": 3}, head_dim=8, sliding_window=8,
        query_pre_attn_scalar=24, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
}  # fmt: skip


def main():
    rng = np.random.default_rng(0)
    for name, config in CONFIGS.items():
        for kind, auto in {
            "lm": AutoModelForCausalLM,
            "reward": AutoModelForSequenceClassification,
        }.items():
            ids = rng.integers(1, 24, (3, 33))
            if name not in (sys.argv[1:] or CONFIGS):
                continue
            torch.manual_seed(0)
            config.num_labels = 1
            model = auto.from_config(config).eval().float()
            for weight in model.parameters():  # biases and norms too
                if weight.ndim == 1:
                    torch.nn.init.normal_(weight, 1.0, 0.3)
            folder = HERE / f"{name}-{kind}"
            model.save_pretrained(folder)
            # Half precision is exact for both sides and half the size.
            file = folder / "model.safetensors"
            half = {k: v.astype(np.float16) for k, v in load_file(file).items()}
            save_file(half, file, metadata={"format": "pt"})
            (folder / "generation_config.json").unlink(missing_ok=True)
            model = auto.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            ).eval()
            lengths = [33, 20, 1]
            with torch.inference_mode():
                if kind == "lm":
                    ids = ids[0, 20:]
                    out = model(torch.tensor(ids[None])).logits[0].numpy()
                else:
                    out = [
                        model(torch.tensor(row[None, :n])).logits.item()
                        for row, n in zip(ids, lengths, strict=True)
                    ]
            golden = {
                "ids": ids.tolist(),
                "lengths": lengths,
                "out": np.round(np.float64(out), 6).tolist(),
            }
            (folder / "golden.json").write_text(json.dumps(golden))


if __name__ == "__main__":
    main()
