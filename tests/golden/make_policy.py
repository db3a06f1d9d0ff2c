"""Writes TRL's policy losses and gradients beside this file: `python make_policy.py`.

Of a model of make_pretrained.py and of completions that are drawn here, with rewards, and
with log-probabilities of an older policy and of a reference. Everything else is computed
by TRL's trainers: advantages, losses, gradients. Needs torch and TRL.
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
from transformers import AutoModelForCausalLM

try:
    from make_training import tokenizer
except ImportError:  # imported by the tests, as a part of their package
    from golden.make_training import tokenizer

HERE = Path(__file__).parent / "policy"
MODEL = HERE.parent / "pretrained" / "llama-lm"
GROUP_SIZE, MAX_NEW_TOKENS, TEMPERATURE = 4, 8, 0.8
CASES = {
    "grpo": {"loss_type": "grpo", "beta": 0.04},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "bnpo": {"loss_type": "bnpo", "beta": 0.3},
    "dual_clip": {"loss_type": "bnpo", "scale_rewards": "batch", "delta": 1.3},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.1},
    "gspo": {
        "loss_type": "grpo", "importance_sampling_level": "sequence",
        "epsilon": 3e-4, "epsilon_high": 4e-4,
        # No beta: TRL would multiply k3 by the ratio of sequences.
    },
    "rloo": {"beta": 0.05},
    "rloo_whitened": {"beta": 0.3, "normalize_advantages": True},
}  # fmt: skip


def draw_rows():
    """Two prompts with a group of completions each, and what was measured of these."""
    rng = np.random.default_rng(0)
    count = 2 * GROUP_SIZE
    lengths = rng.integers(2, MAX_NEW_TOKENS + 1, count)
    completions = [rng.integers(3, 24, n).tolist() for n in lengths]
    for i in range(0, count, 2):
        completions[i][-1] = 2  # it stopped

    def noise(scale):
        return [(scale * rng.normal(size=n)).round(3).tolist() for n in lengths]

    return {
        "prompts": [[5, 9, 4]] * GROUP_SIZE + [[7]] * GROUP_SIZE,
        "completions": completions,
        "rewards": rng.normal(size=count).round(3).tolist(),
        # What is added to the policy's log-probabilities.
        "old": noise(0.2),
        "reference": noise(0.5),
    }


def policy_gradient(folder, rows, options):
    """TRL's log-probabilities, advantages, loss, and the gradient by names of weights."""
    count = len(rows["prompts"])
    is_rloo = "loss_type" not in options
    kind = trl.RLOOTrainer if is_rloo else trl.GRPOTrainer
    config = trl.RLOOConfig if is_rloo else trl.GRPOConfig
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as out:
        made = kind(
            model=model,
            reward_funcs=lambda completions, **_: rows["rewards"],
            args=config(
                out, use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
                per_device_train_batch_size=count, num_generations=GROUP_SIZE,
                max_completion_length=MAX_NEW_TOKENS, temperature=TEMPERATURE,
                disable_dropout=True, gradient_checkpointing=False, **options,
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": ["w5"] * count}),
            processing_class=tokenizer(),
        )  # fmt: skip
        made.current_gradient_accumulation_steps = 1
        texts = ["-"] * count
        drawn = rows["prompts"], rows["completions"]
        if is_rloo:
            made._generate = lambda prompts: (*drawn, texts)
        else:
            made._generate = lambda prompts: (*drawn, None, texts, None, {}, None, None)
        look = made._get_per_token_logps_and_entropies
        measured = {}

        def with_noise(model, ids, mask, keep, *rest, **options):
            log_probs, *others = look(model, ids, mask, keep, *rest, **options)
            name = "reference" if model is made.ref_model else "old"
            for i, added in enumerate(rows[name]):
                log_probs[i, : len(added)] += torch.tensor(added)
            measured[name] = log_probs
            return log_probs, *others

        made._get_per_token_logps_and_entropies = with_noise
        inputs = made._generate_and_score_completions([{"prompt": "w5"}] * count)
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        with torch.no_grad():
            with_noise(model, ids, mask, inputs["completion_ids"].shape[1])
        if not is_rloo:
            inputs["old_per_token_logps"] = measured["old"]
        made._get_per_token_logps_and_entropies = look
        model.train()
        model.zero_grad()
        loss = made._compute_loss(model, inputs)
        loss.backward()
    found = {
        "loss": loss.item(),
        "advantages": inputs["advantages"].tolist(),
        "old": as_lists(measured["old"], rows),
        "reference": as_lists(measured.get("reference", measured["old"]), rows),
    }
    return found, {name: p.grad.numpy() for name, p in model.named_parameters()}


def as_lists(log_probs, rows):
    pairs = zip(log_probs.tolist(), rows["completions"], strict=True)
    return [row[: len(ids)] for row, ids in pairs]


def main():
    HERE.mkdir(exist_ok=True)
    rows = draw_rows()
    golden = {
        "trl": trl.__version__,
        "rows": rows,
        "settings": {
            "num_generations": GROUP_SIZE,
            "max_completion_length": MAX_NEW_TOKENS,
            "temperature": TEMPERATURE,
            "standard deviations": "ddof 1, plus 1e-4",
            "num_items_in_batch": sum(map(len, rows["completions"])),
        },
        "cases": CASES,
        "found": {},
    }
    for case, options in CASES.items():
        with contextlib.redirect_stdout(None):
            golden["found"][case], gradient = policy_gradient(MODEL, rows, options)
        file = HERE / f"{case}.safetensors"
        save_file(gradient, file, {"format": "pt"})
        file.chmod(0o644)
    (HERE / "golden.json").write_text(json.dumps(golden))


if __name__ == "__main__":
    main()
