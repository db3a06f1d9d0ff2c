"""transformers' side of scoring.py; runs in an environment that has torch.

python scoring_transformers.py FOLDER TEXTS.json
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

BATCH_SIZE = 32


def main(folder: Path, name: str) -> None:
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    torch.set_num_threads(os.cpu_count() or 1)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    model.config.pad_token_id = 0
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>"
    )
    pairs = json.loads((folder / name).read_text())
    texts = [f"{prompt} {completion}" for prompt, completion in pairs]

    def score(batch: list[str]) -> list[float]:
        inputs = tokenizer(batch, padding=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        return model(**inputs).logits[:, 0].tolist()

    def arrival() -> list[float]:
        scores = []
        for i in range(0, len(texts), BATCH_SIZE):
            scores += score(texts[i : i + BATCH_SIZE])
        return scores

    def length_sorted() -> list[float]:
        sizes = [len(ids) for ids in tokenizer(texts)["input_ids"]]
        order = sorted(range(len(texts)), key=lambda i: sizes[i], reverse=True)
        scores = [0.0] * len(texts)
        for i in range(0, len(texts), BATCH_SIZE):
            batch = order[i : i + BATCH_SIZE]
            for j, value in zip(batch, score([texts[j] for j in batch]), strict=True):
                scores[j] = value
        return scores

    with torch.inference_mode():
        for _ in range(3):
            score(texts[:BATCH_SIZE])
        for system, run in {"sorted": length_sorted, "arrival": arrival}.items():
            started = time.perf_counter()
            scores = run()
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            row = {"system": f"transformers_{system}", "seconds": seconds}
            print(json.dumps(row | {"peak_mb": peak, "scores": scores}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
