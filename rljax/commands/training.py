"""What the commands that train a model of a folder have in common."""

import datetime
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rljax.commands.launch import use_compile_cache
from rljax.training.files import FolderError, RunError, file_sha256, read_json
from rljax.training.run_folder import RunFolder, RunOptions

if TYPE_CHECKING:
    from rljax.rlhf.models.trainable import Trainable

Train = Literal["all", "last", "lora", "head"]


def files_sha256(paths: Sequence[Path]) -> str:
    """Returns the hash of what is in some files, and of their names."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name} {file_sha256(path)}\n".encode())
    return total.hexdigest()


def folder_sha256(folder: Path) -> str:
    """Returns the hash of the files of a folder, those of its folders left out."""
    return files_sha256(sorted(path for path in folder.iterdir() if path.is_file()))


def run_command(
    name: str,
    settings: Any,
    options: RunOptions,
    work: Callable[[RunFolder], dict[str, Any]],
) -> dict[str, Any]:
    """Returns the result of a command's run, now or before.

    Args:
        name: of the command.
        settings: as of `RunFolder`.
        options: where and how the run is saved.
        work: `(folder) -> result`, which imports what is slow to import.
    """
    with RunFolder(name, settings, options) as folder:
        if folder.result is not None:
            return folder.result
        use_compile_cache()
        # transformers would advise to install PyTorch.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        from rljax.rlhf.data.encoding import EncodingError

        try:
            return work(folder)
        except (FolderError, EncodingError) as error:
            raise RunError(str(error)) from error


def date_of_run(date: datetime.date | None, out: Path) -> datetime.date:
    """Returns a date, or else the one on which the run in a folder was begun."""
    return date or datetime.date.fromisoformat(
        read_json(out / "manifest.json")["started"][:10]
    )


def choose_trainable(train: Train, last_layers: int, lora_rank: int) -> "Trainable":
    """Returns what the flags --train, --last-layers and --lora-rank choose."""
    from rljax.rlhf.models import Everything, HeadOnly, LastLayers, Lora, LoraOnly

    match train:
        case "all":
            return Everything()
        case "last":
            return LastLayers(last_layers)
        case "lora":
            return LoraOnly(Lora(rank=lora_rank, alpha=2.0 * lora_rank))
        case "head":
            return HeadOnly()
