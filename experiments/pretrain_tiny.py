"""Pretrains a tiny language model on Shakespeare and on some solved problems.

    python experiments/pretrain_tiny.py --out DIR

The problems are words to be written backwards. From the few that it is shown the model
learns to answer, and is right on a part of other words: where `rlhf_tiny.py` begins. The
folder is a Llama of bytes in Hugging Face's format.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import word_problems

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.numerics.processes import is_main
from rljax.rlhf import (
    SFTConfig,
    SFTHyperparams,
    SFTTask,
    Transformer,
    TransformerConfig,
    fine_tuning,
    save_language_model,
    trained_params,
)
from rljax.rlhf.data.rows import Completions
from rljax.training.loop import train
from rljax.training.run_folder import RunFolder, RunOptions
from rljax.training.run_logger import RunLogger
from rljax.training.sharded import fetched, mesh_for, place, sharded

SHAPE = TransformerConfig(
    vocab_size=word_problems.VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=384,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
    max_length=128,
    tie_embeddings=True,
)


PASSAGE = 64  # bytes
NUM_PASSAGES = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Draws the first weights and the order of the rows."""
    num_updates: int = 2000
    """Updates: of their rows one in four is a passage of Shakespeare, the others are
    solved problems."""
    batch_size: int = 64
    """Rows of an update."""
    num_shown: int = 2000
    """Different problems that are shown with their answers."""
    num_held_out: int = 1000
    """Problems that are only asked in the end."""
    learning_rate: float = 1e-3
    """AdamW's, which falls to 0."""
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_updates", "num_shown", "num_held_out")
        if self.batch_size < 4 or self.batch_size % 4:
            raise ValueError(
                f"batch_size must be a multiple of 4, got {self.batch_size}. Change it."
            )


def main(experiment: Experiment) -> dict[str, Any]:
    """Trains, or goes on; saves the model; returns how many problems it can solve."""
    if experiment.run.out is None:
        raise ValueError("the model needs a folder, got out=None. Name one with --out.")
    with RunFolder("pretrain_tiny", experiment, experiment.run) as folder:
        if folder.result is not None:
            return folder.result
        text = word_problems.read_text()
        words = word_problems.split_words(
            text, experiment.num_shown, experiment.num_held_out
        )
        module = Transformer(SHAPE)
        start_key, train_key, test_key = jax.random.split(
            jax.random.key(experiment.seed), 3
        )
        ids = jnp.zeros((1, 1), jnp.int32)
        params = module.init(start_key, ids, method="logits")["params"]
        rows = mixture(text, words.shown)
        config = SFTConfig(
            batch_size=experiment.batch_size,
            num_microbatches=4,
            lengths=(word_problems.LENGTH, PASSAGE),
        )
        mesh = mesh_for(config.microbatch_size)
        task = place(SFTTask(rows, params), mesh)
        run = RunLogger(
            folder,
            num_updates=experiment.num_updates,
            steps_per_update=experiment.batch_size,
            headline="loss",
            unit="rows",
        )
        hyperparams = SFTHyperparams(
            learning_rate=experiment.learning_rate,
            warmup_updates=experiment.num_updates // 20,
            decay_updates=experiment.num_updates,
        )
        algorithm = sharded(fine_tuning(module, config), mesh)
        state = train(
            algorithm,
            run.start(algorithm.init, train_key, hyperparams, task),
            task,
            run.updates_left,
            log_every=max(1, experiment.num_updates // 40),
            on_log=run.on_log,
        )
        run.check_finished()
        params = trained_params(module, config.trainable, state, task)
        params = fetched(params, mesh)
        model = experiment.run.out / "model"
        if is_main():
            save_language_model(model, module, {"params": params})
        right = {
            name: word_problems.share_right(
                module, params, some[: experiment.num_held_out], test_key
            )
            for name, some in words._asdict().items()
        }
        return run.finish({"model": str(model)} | right)


def mixture(text: str, shown: Sequence[str]) -> Completions:
    """Returns passages of a text, and three times as many solved problems."""
    passages = word_problems.passages(text[: PASSAGE * NUM_PASSAGES], PASSAGE)
    solved = word_problems.solved(shown)
    times = 3 * len(passages.lengths) // len(shown)
    solved = solved.replace(
        ids=jnp.pad(solved.ids, ((0, 0), (0, PASSAGE - word_problems.LENGTH)))
    )
    many = jax.tree.map(lambda x: jnp.concatenate([x] * times), solved)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), passages, many)


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
