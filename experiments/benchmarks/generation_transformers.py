"""transformers' side of generation.py; runs in an environment that has torch.

python generation_transformers.py FOLDER
"""

import json
import os
import sys
import time
from pathlib import Path


def main(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(os.cpu_count() or 1)
    problem = json.loads((folder / "problem.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(
        problem["model"], dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    stop_ids = problem["stop_ids"]
    model.generation_config.eos_token_id = stop_ids or None
    model.generation_config.pad_token_id = 0
    prompts = torch.tensor(problem["prompts"])
    stops = torch.tensor(stop_ids)
    for turn, _ in enumerate(sys.stdin):
        torch.manual_seed(turn)
        started = time.perf_counter()
        with torch.inference_mode():
            ids = model.generate(
                input_ids=prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=problem["max_new_tokens"],
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
            )[:, prompts.shape[1] :]
        seconds = time.perf_counter() - started
        ends = torch.isin(ids, stops).int()
        # A token counts if no stop token comes before it.
        tokens = int((torch.cumsum(ends, 1) - ends == 0).sum())
        print(json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
