"""TRL's side of reward_training.py; runs in an environment that has torch.

python reward_training_trl.py FOLDER PAIRS_IN_PART PARTS
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

LEARNING_RATE = 1e-4


def main(folder: Path, part_size: int, num_parts: int) -> None:
    import datasets
    import numpy as np
    import torch
    import transformers
    import trl

    answers, sys.stdout = sys.stdout, sys.stderr  # the library prints too
    torch.set_num_threads(os.cpu_count() or 1)
    data = np.load(folder / "pairs.npz")
    ids, lengths = data["ids"], data["lengths"]
    rows = zip(ids.reshape(-1, *ids.shape[2:]), lengths.reshape(-1, 2), strict=True)
    pairs = [
        {"chosen_ids": pair[0, :n].tolist(), "rejected_ids": pair[1, :m].tolist()}
        for pair, (n, m) in rows
    ]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token="<pad>",
        eos_token="<unk>",
    )

    class Turns(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            if not sys.stdin.readline():
                sys.exit()
            self.started = time.perf_counter()

        def on_step_end(self, *_, **__):
            self.seconds = time.perf_counter() - self.started

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not logs or "loss" not in logs:
                return
            answer = {
                "seconds": self.seconds,
                "seconds_compile": 0.0,
                "loss": logs["loss"],
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

    with tempfile.TemporaryDirectory() as out:
        trainer = trl.RewardTrainer(
            model=model,
            args=trl.RewardConfig(
                out, use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
                activation_checkpointing=False, num_train_epochs=1,
                per_device_train_batch_size=part_size,
                gradient_accumulation_steps=num_parts,
                learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
                weight_decay=0.0, max_grad_norm=1.0, save_strategy="no",
                logging_steps=1, train_sampling_strategy="sequential",
            ),
            train_dataset=datasets.Dataset.from_list(pairs),
            processing_class=tokenizer,
            callbacks=[Turns()],
        )  # fmt: skip
        trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
