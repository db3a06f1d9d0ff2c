"""Files that are whole or not there, and strict JSON to put into them."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np


class FolderError(ValueError):
    """A folder does not hold what was asked of it; the message says why."""


def dumps(value: Any, **options: Any) -> str:
    """Strict JSON: numbers that are not finite become null, arrays become lists."""
    return json.dumps(_plain(value), allow_nan=False, **options)


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader sees all of the old text or all of the new."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync(path.parent)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Returns once a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype == np.float32:
            # The shortest decimal that reads back as the same float32.
            array = array.astype(str).astype(np.float64)
        return _plain(array.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def inside(folder: Path, name: str) -> Path:
    """The path of a file of a folder that somebody else wrote; it need not exist.

    Raises:
        FolderError: it lies outside the folder, by its name or by a link. Links into the
            `blobs` of a Hugging Face cache, of which the folder is a snapshot, are fine.
    """
    folder = Path(folder)
    path, root = folder / name, folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    real = path.resolve()
    if (
        Path(name).is_absolute()
        or ".." in Path(name).parts
        or not any(real.is_relative_to(place) for place in allowed)
    ):
        raise FolderError(
            f"{name!r} lies outside the folder {folder}, and nothing outside is read. "
            f"Put the file into the folder itself."
        )
    return path
