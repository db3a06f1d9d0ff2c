"""The files of a Hugging Face folder: JSON and safetensors, and nothing outside it."""

import functools
import json
import math
import shutil
import warnings
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

# Pickles that a trainer leaves beside a model.
_OF_TRAINING = ("training_args", "optimizer", "scheduler", "rng_state")


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


def typed(name: str, value: Any, kind: type) -> Any:
    """Returns a value of JSON that is a bool, an int, or a float that may look whole.

    Raises:
        ValueError: it is none; the message has the name.
    """
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is not float and type(value) is kind:
        return value
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    raise ValueError(f"{name} must be {words[kind]}, got {value!r}")


def check_is_model(folder: Path, auto_class: str) -> None:
    """Raises a `PretrainedError` with a remedy where others keep what we do not read.

    That is an adapter of a model, or weights in other files than safetensors.
    `auto_class` is transformers' class for what is wanted.
    """
    if (folder / "adapter_config.json").exists() or (
        folder / "adapter_model.safetensors"
    ).exists():
        base = "unknown"
        if (path := inside(folder, "adapter_config.json")).exists():
            base = read_object(path).get("base_model_name_or_path") or base
        raise PretrainedError(
            f"{folder} holds an adapter of the model {base}, no model. Merge the two: "
            + _command(
                f"peft import AutoPeft{auto_class}", folder, "merge_and_unload()"
            )
        )
    if any(folder.glob("*.safetensors")):
        return
    pickles = [
        path for suffix in ("bin", "pt", "pth") for path in folder.glob(f"*.{suffix}")
    ]
    if names := sorted(p.name for p in pickles if not p.name.startswith(_OF_TRAINING)):
        raise PretrainedError(
            f"{folder} has its weights in {names[0]}, a pickle, which could run "
            f"any code: only safetensors are read. Convert it: "
            + _command(f"transformers import Auto{auto_class}", folder)
        )
    if found := sorted(folder.glob("*.gguf")):
        raise PretrainedError(
            f"{folder} has its weights in {found[0].name}: only safetensors are read. "
            f"Give the folder of the model that it was made of, or convert it: python -c "
            f'"from rljax.rlhf.pretrained import convert_gguf as c; '
            f"c('{found[0]}', 'NEW')\"."
        )


def _command(origin: str, folder: Path, *calls: str) -> str:
    # peft has no other way to learn that the base model is to have one score.
    one = (
        ", num_labels=1"
        if origin.endswith("PeftModelForSequenceClassification")
        else ""
    )
    load = f"M.from_pretrained('{folder}'{one})"
    chain = ".".join([load, *calls, "save_pretrained('NEW')"])
    return f'python -c "from {origin} as M; {chain}"; then copy the tokenizer to NEW.'


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
        warn(
            f"{index} names {some(missing)}, which its file does not hold: harmless, "
            f"since what the model needs is looked for in the files."
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
        raise PretrainedError(
            f"{folder} has weights that its config.json has no place for: {some(left)}."
        )


def some(names: list[str]) -> str:
    """Returns the first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def warn(message: str) -> None:
    """Warns of what is passed over in a folder that is read."""
    warnings.warn(message, UserWarning, stacklevel=2)


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
