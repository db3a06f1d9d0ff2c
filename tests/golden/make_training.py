"""Writes TRL's losses and gradients beside this file: `python make_training.py`.

Of the models of make_pretrained.py. Needs torch and TRL, which the tests do not.
"""

import contextlib
import json
import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
import trl
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)
from trl.trainer.utils import disable_dropout_in_model

HERE = Path(__file__).parent / "training"
MODELS = HERE.parent / "pretrained"
CENTRING = 0.1
REWARD_CASES = {
    "plain": {},
    "margin": {"margins": True},
    "centred": {"centring": CENTRING},
}
SFT_CASES = {"completions": {"num_parts": 4}, "texts": {"starts": False}}


def draw_rows():
    """Ragged rows, with a margin for each pair and a start for each completion."""
    rng = np.random.default_rng(0)

    def ids(count):
        return [rng.integers(1, 24, n).tolist() for n in rng.integers(2, 21, count)]

    chosen, rejected, texts = ids(8), ids(8), ids(8)
    return {
        "chosen": chosen,
        "rejected": rejected,
        "margins": rng.uniform(-1, 2, 8).round(3).tolist(),
        "texts": texts,
        "starts": [int(rng.integers(1, len(text))) for text in texts],
    }


def reward_gradient(folder, rows, *, margins=False, centring=None):
    """The loss of `trl.RewardTrainer`, and its gradient by the names of the weights."""
    data = {"chosen_ids": rows["chosen"], "rejected_ids": rows["rejected"]}
    if margins:
        data["margin"] = rows["margins"]
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32
    )
    options = {"center_rewards_coefficient": centring}
    with trainer(trl.RewardTrainer, trl.RewardConfig, model, data, 1, options) as made:
        return step(made, 1)


def sft_gradient(folder, rows, *, starts=True, num_parts=1):
    """The same of `trl.SFTTrainer`, of a batch in so many parts."""
    data = {"input_ids": rows["texts"]}
    if starts:
        data["completion_mask"] = [
            [int(i >= start) for i in range(len(text))]
            for text, start in zip(rows["texts"], rows["starts"], strict=True)
        ]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    disable_dropout_in_model(model)  # as the other trainer does
    options = {"completion_only_loss": starts}
    with trainer(
        trl.SFTTrainer, trl.SFTConfig, model, data, num_parts, options
    ) as made:
        return step(made, num_parts)


@contextlib.contextmanager
def trainer(kind, config, model, data, num_parts, options):
    with tempfile.TemporaryDirectory() as folder:
        yield kind(
            model=model,
            args=config(
                folder, use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
                activation_checkpointing=False, gradient_accumulation_steps=num_parts,
                per_device_train_batch_size=8 // num_parts, **options,
            ),
            train_dataset=datasets.Dataset.from_dict(data),
            processing_class=tokenizer(),
        )  # fmt: skip


def step(made, num_parts):
    """What an update of a trainer has computed when its optimizer is called."""
    batches, count = made.get_batch_samples(
        iter(made.get_train_dataloader()), num_parts, torch.device("cpu")
    )
    made.model.zero_grad()
    made.current_gradient_accumulation_steps = num_parts
    losses = [made.training_step(made.model, batch, count) for batch in batches]
    gradient = {name: p.grad.numpy() for name, p in made.model.named_parameters()}
    return sum(loss.item() for loss in losses), gradient


def tokenizer():
    vocabulary = {"<pad>": 0} | {f"w{i}": i for i in range(1, 24)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="w1"))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="w2"
    )


def main():
    HERE.mkdir(exist_ok=True)
    rows = draw_rows()
    losses = {}
    for find, folder, cases in (
        (reward_gradient, MODELS / "llama-reward", REWARD_CASES),
        (sft_gradient, MODELS / "llama-lm", SFT_CASES),
    ):
        for case, options in cases.items():
            losses[case], gradient = find(folder, rows, **options)
            file = HERE / f"{case}.safetensors"
            save_file(gradient, file, {"format": "pt"})
            file.chmod(0o644)
    text = json.dumps({"rows": rows, "centring": CENTRING, "losses": losses})
    (HERE / "golden.json").write_text(text)


if __name__ == "__main__":
    main()
