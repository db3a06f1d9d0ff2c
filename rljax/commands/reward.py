"""The command `rljax reward`: a reward model, learned from a file of preferences."""

import dataclasses
import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, arg

from rljax.commands.launch import check_counts, check_seed
from rljax.commands.template import read_template
from rljax.commands.training import Train, files_sha256, folder_sha256, run_command
from rljax.training.files import RunError
from rljax.training.run_folder import RunFolder, RunOptions

_TODAY = arg(metavar="YYYY-MM-DD", help_behavior_hint="(default: today)")
_BY_SIZE = arg(metavar="FLOAT", help_behavior_hint="(default: by what is trained)")
_CONTEXT = arg(metavar="INT", help_behavior_hint="(default: the model's, at most 1024)")
_HELD_OUT = arg(metavar="FILE", help_behavior_hint="(default: a tenth of --data)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reward:
    """Trains a reward model on preferences, and says how good it is on others.

    OUT/model is then a folder for `rljax score` and transformers, OUT/evaluation.html a
    page of figures. The same command goes on where it was stopped. The last line of stdout
    is the figures as JSON.
    """

    model: Path
    """Folder of a language model or a reward model, as transformers writes it."""
    data: Path
    """Preferences to learn from: JSON lines (.gz too), a JSON array or Parquet."""
    eval: Annotated[Path | None, _HELD_OUT] = None
    """Preferences to judge the model by."""
    train: Train = "all"
    """Train all of the model, its last blocks, low-rank terms, or the head alone."""
    last_layers: int = 4
    """Blocks that --train last trains."""
    lora_rank: int = 16
    """Rank of the terms that --train lora trains; they weigh twice this over it."""
    epochs: float = 1.0
    """Times that every pair is learned from."""
    batch_size: int = 32
    """Pairs in an update."""
    num_microbatches: int = 4
    """Parts of a batch, computed one after another: more need less memory."""
    learning_rate: Annotated[float | None, _BY_SIZE] = None
    """AdamW's step size; it rises over a tenth of the run, then falls to 0."""
    label_smoothing: float = 0.0
    """Share of the preferences taken to be the wrong way round."""
    centring: float = 0.01
    """Weight of (chosen + rejected)^2, which keeps scores near 0."""
    max_length: Annotated[int | None, _CONTEXT] = None
    """Longest text, in tokens."""
    truncate: Literal["prompt", "completion", "error"] = "prompt"
    """Longer texts lose the prompt's beginning, or the completion's end, or are errors."""
    template: Annotated[str, arg(metavar="auto|none|FILE")] = "auto"
    """The chat template: the tokenizer's, if it has one; none; or a Jinja file."""
    date: Annotated[datetime.date | None, _TODAY] = None
    """What the chat template takes for today."""
    prompt_column: str = "prompt"
    """What the column of prompts is called, if there is one."""
    chosen_column: str = "chosen"
    """What the column of the better completions is called."""
    rejected_column: str = "rejected"
    """What the column of the worse completions is called."""
    bfloat16: bool = False
    """Multiply matrices in bfloat16; parameters stay float32."""
    remat: bool = False
    """Compute blocks again for the gradient: slower, with less memory."""
    skip_bad: bool = False
    """Pass over rows that cannot be read, and count them, rather than stop."""
    seed: int = 0
    """Of the new head, the order of the pairs, and what is held out."""
    fsdp: int = dataclasses.field(default=1, metadata={"setting": False})
    """Devices that share one copy of the parameters and the optimizer's state."""
    run: Annotated[RunOptions, OmitArgPrefixes] = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        counts = ("batch_size", "num_microbatches", "last_layers", "lora_rank", "fsdp")
        check_counts(self, *counts)
        if self.run.out is None:
            raise ValueError("out must be a folder, got none. Name one with --out.")
        if not self.epochs > 0:
            raise ValueError(f"epochs must be above 0, got {self.epochs}. Raise it.")


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What the result follows from: flags, and what is in the files that they name."""

    flags: Reward
    model_sha256: str
    data_sha256: str
    eval_sha256: str | None
    template: bool | str


def reward(command: Reward) -> dict[str, Any]:
    """Trains, or goes on, and returns the headline figures."""
    try:
        settings = _Settings(
            command,
            folder_sha256(command.model),
            files_sha256([command.data]),
            files_sha256([command.eval]) if command.eval else None,
            read_template(command.template),
        )
    except OSError as error:
        raise RunError(
            f"{error}. Give a --model, --data and --eval that can be read."
        ) from error

    def work(folder: RunFolder) -> dict[str, Any]:
        from rljax.commands.reward_run import train_and_judge

        return train_and_judge(command, folder)

    return run_command("reward", settings, command.run, work)
