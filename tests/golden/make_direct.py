"""Writes TRL's losses of direct alignment beside this file: `python make_direct.py`.

The policy is a model of make_pretrained.py, the reference the same with all weights times
1.1; of the second KTO case they change places. One batch of eight rows, in their order, so
that KTO's completions of other prompts are those of the row before. Needs torch and TRL,
which the tests do not.
"""

import json
import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
import trl
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent / "direct"
MODELS = HERE.parent / "pretrained"
EOS = 2
WORDS = ["<pad>", "<unk>", "</s>", *(f"w{i}" for i in range(3, 24))]
SCALE = 1.1
CASES = {
    "dpo": {"loss_type": ["sigmoid"], "beta": 0.3},
    "robust_dpo": {"loss_type": ["robust"], "beta": 0.3, "label_smoothing": 0.2},
    "hinge": {"loss_type": ["hinge"], "beta": 0.3},
    "ipo_mean": {"loss_type": ["ipo"], "beta": 0.3},
    "kto": {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.8},
    "kto_reversed": {"beta": 0.3},
}


def draw_rows():
    """Prompts of different tokens, with two completions that end, and a label for each."""
    rng = np.random.default_rng(0)

    def ids(least, most, end):
        sizes = rng.integers(least, most, 8)
        return [rng.integers(3, 24, n).tolist() + end for n in sizes]

    return {
        "prompts": ids(2, 8, []),
        "chosen": ids(1, 10, [EOS]),
        "rejected": ids(1, 10, [EOS]),
        "labels": [True, False, False, True, True, False, True, False],
    }


def losses_and_gradient(folder, rows, case):
    """The loss of a trainer's first step, its distance, and the gradient by names."""
    model, reference = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for _ in range(2)
    )
    with torch.no_grad():
        for parameter in (model if case == "kto_reversed" else reference).parameters():
            parameter.mul_(SCALE)
    data = {"prompt": [text(ids) + " " for ids in rows["prompts"]]}
    if case.startswith("kto"):
        kind, config = trl.KTOTrainer, trl.KTOConfig
        columns = {"completion": "chosen"}
        data["label"] = rows["labels"]
    else:
        kind, config = trl.DPOTrainer, trl.DPOConfig
        columns = {"chosen": "chosen", "rejected": "rejected"}
    data |= {column: list(map(text, rows[name])) for column, name in columns.items()}
    with tempfile.TemporaryDirectory() as out:
        made = kind(
            model=model,
            ref_model=reference,
            args=config(
                out, use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
                gradient_checkpointing=False, per_device_train_batch_size=8,
                **CASES[case],
            ),
            train_dataset=datasets.Dataset.from_dict(data),
            processing_class=tokenizer(),
        )  # fmt: skip
    (batch,) = made.get_train_dataloader()
    made.model.zero_grad()
    made.current_gradient_accumulation_steps = 1
    loss = made.training_step(made.model, batch)
    gradient = {name: p.grad.numpy() for name, p in made.model.named_parameters()}
    kl = made._metrics["train"]["kl"] if case.startswith("kto") else None
    return {"loss": loss.item(), "kl": kl and kl[0]}, gradient


def text(ids):
    return " ".join(WORDS[i] for i in ids)


def tokenizer():
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=WORDS[1]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=WORDS[0], eos_token=WORDS[EOS]
    )


def main():
    HERE.mkdir(exist_ok=True)
    rows, found = draw_rows(), {}
    for case in CASES:
        found[case], gradient = losses_and_gradient(MODELS / "llama-lm", rows, case)
        file = HERE / f"{case}.safetensors"
        save_file(gradient, file, {"format": "pt"})
        file.chmod(0o644)
    text = json.dumps({"rows": rows, "scale": SCALE, "found": found})
    (HERE / "golden.json").write_text(text)


if __name__ == "__main__":
    main()
