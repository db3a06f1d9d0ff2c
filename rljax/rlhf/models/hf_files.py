"""The files of a Hugging Face folder: JSON and safetensors, and nothing outside it."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rljax.extras import require
from rljax.training.files import (
    FolderError,
    inside,
    json_object,
    sync,
    write_atomically,
)


class PretrainedError(FolderError):
    """A folder that cannot be read, or a model that cannot be written."""


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
        PretrainedError: it is missing or holds something else.
    """
    if not path.exists():
        raise PretrainedError(
            f"{path} is missing. Give the folder of a model as transformers saves it."
        )
    return json_object(path, PretrainedError)


def read_tensors(folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Returns a reader of every tensor in a folder, by name.

    Raises:
        PretrainedError: a file is missing or not whole; or, when a tensor is read, it
            has infinities or NaN.
    """
    index = inside(folder, "model.safetensors.index.json")
    places: Any = {}
    files = {"model.safetensors"}
    if index.exists():
        places = read_object(index).get("weight_map")
        if not isinstance(places, dict) or not all(
            isinstance(name, str) for name in places.values()
        ):
            raise PretrainedError(f"{index} has no weight_map of names to files.")
        files = set(places.values())
    readers: dict[str, Callable[[], np.ndarray]] = {}
    for path in [inside(folder, name) for name in sorted(files)]:
        file = _open(path)
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            if name in readers:
                raise PretrainedError(f"{folder} has {name} in two files.")
            readers[name] = functools.partial(_finite, file, name, folder)
    if missing := sorted(set(places) - set(readers)):
        raise PretrainedError(
            f"{index} names {missing[0]}, which its file does not hold."
        )
    return readers


def write_folder(
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, np.ndarray],
    config_name: str = "config.json",
) -> None:
    """Writes a model's configuration and tensors; each file is whole or not there."""
    safetensors = require("safetensors.numpy", "pretrained models need", "lm")
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    beside = folder / ".model.safetensors.part"
    try:
        safetensors.save_file(whole, beside, metadata={"format": "pt"})
        sync(beside)
        beside.replace(folder / "model.safetensors")
    finally:
        beside.unlink(missing_ok=True)
    write_atomically(folder / config_name, json.dumps(config, indent=2) + "\n")
    # safetensors makes files that only their owner may read.
    shutil.copymode(folder / config_name, folder / "model.safetensors")


def check_all_used(tensors: dict[str, Any], folder: Path) -> None:
    """Raises a `PretrainedError` if tensors are left that no parameter was read from."""
    # Buffers that old versions of transformers stored, recomputed by everybody.
    buffers = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
    left = sorted(name for name in tensors if not name.endswith(buffers))
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise PretrainedError(
            f"{folder} has weights that its config.json has no place for: "
            f"{', '.join(left[:3])}{more}."
        )


def _open(path: Path) -> Any:
    safetensors = require("safetensors", "pretrained models need", "lm")
    try:
        return safetensors.safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        raise PretrainedError(f"{path} is missing: the folder is not whole.") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise PretrainedError(
            f"{path} is not a whole safetensors file: {error}. Copy it anew."
        ) from error


def _finite(file: Any, name: str, folder: Path) -> np.ndarray:
    array = file.get_tensor(name)
    if not np.isfinite(array.astype(np.float32)).all():
        raise PretrainedError(f"{name} in {folder} has numbers that are not finite.")
    return array
