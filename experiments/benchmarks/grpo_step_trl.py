"""TRL's side of grpo_step.py; runs in an environment that has torch.

python grpo_step_trl.py FOLDER NUM_PROMPTS GROUP_SIZE MAX_NEW_TOKENS LEARNING_RATE
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path


def main(
    folder: Path,
    num_prompts: int,
    group_size: int,
    max_new_tokens: int,
    learning_rate: float,
) -> None:
    import datasets
    import numpy as np
    import torch
    import transformers
    import trl

    answers, sys.stdout = sys.stdout, sys.stderr  # the library prints too
    torch.set_num_threads(os.cpu_count() or 1)
    prompts = [
        {"prompt": " ".join(f"w{i}" for i in row)}
        for row in np.load(folder / "prompts.npy")
    ]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token="<pad>",
        eos_token="<unk>",
    )
    rewards = []

    def share_even(completion_ids, **_):
        found = [np.mean(np.array(ids) % 2 == 0) for ids in completion_ids]
        rewards.append(float(np.mean(found)))
        return found

    class Turns(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            if not sys.stdin.readline():
                sys.exit()
            self.started = time.perf_counter()

        def on_step_end(self, *_, **__):
            answer = {
                "seconds": time.perf_counter() - self.started,
                "seconds_compile": 0.0,
                "reward": rewards[-1],
            }
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

    with tempfile.TemporaryDirectory() as out:
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=share_even,
            args=trl.GRPOConfig(
                out, use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
                gradient_checkpointing=False, num_train_epochs=1,
                per_device_train_batch_size=num_prompts * group_size,
                num_generations=group_size, max_completion_length=max_new_tokens,
                beta=0.0, loss_type="grpo", temperature=1.0, top_p=1.0, top_k=0,
                learning_rate=learning_rate, lr_scheduler_type="constant",
                weight_decay=0.0, max_grad_norm=1.0, save_strategy="no",
                logging_strategy="no", shuffle_dataset=False,
            ),
            train_dataset=datasets.Dataset.from_list(prompts),
            processing_class=tokenizer,
            callbacks=[Turns()],
        )  # fmt: skip
        trainer.train()


if __name__ == "__main__":
    folder, num_prompts, group_size, max_new_tokens, rate = sys.argv[1:]
    main(
        Path(folder),
        int(num_prompts),
        int(group_size),
        int(max_new_tokens),
        float(rate),
    )
