"""Checkpoints: a state on disk, whole or not at all.

A checkpoint is a folder named by its update. Orbax writes the arrays; beside them lie a
description of every leaf and a checksum of every file. It is written under another name
and renamed when complete, so a process killed at any moment leaves no half of one.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rljax.training.files import sync

State = TypeVar("State")

_STATE, _ABOUT, _SUMS = "state", "about.json", "sha256.json"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, is damaged, or is of another program."""


class DamagedCheckpointError(CheckpointError):
    """The files of a checkpoint are not those that were written."""


def save(
    folder: Path, step: int, state: Any, metadata: dict[str, Any], *, keep: int = 3
) -> Path:
    """Writes `folder/<step>` atomically, then removes all but `keep`.

    Args:
        folder: where the run's checkpoints lie; made if missing.
        step: updates taken; the checkpoint's name.
        state: any pytree of arrays, typed keys included.
        metadata: JSON to store beside it.
        keep: number of checkpoints to leave, this one included.

    Returns:
        The checkpoint's path.

    Raises:
        CheckpointError: it could not be written. Earlier ones are as they were.
    """
    import orbax.checkpoint as ocp

    path = Path(folder).absolute() / f"{step:012d}"
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _require_space(unfinished, state)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(unfinished / _STATE, state)
        about = {"step": step, "metadata": metadata, "leaves": _describe(state)}
        (unfinished / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        sums = json.dumps(_checksums(unfinished))
        (unfinished / _SUMS).write_text(sums, encoding="utf-8")
        for entry in [*unfinished.rglob("*"), unfinished]:
            sync(entry)
        if path.exists():
            shutil.rmtree(path)
        unfinished.rename(path)
        sync(path.parent)
    # Orbax reports a full disk in exceptions of several unrelated types.
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else error
        raise CheckpointError(
            f"could not write the checkpoint {path}: {reason}. Make room, or make it "
            f"writable, and run the same command again: earlier checkpoints are whole."
        ) from error
    older = [x for x in steps(folder) if x < step]
    for old in older[: max(0, len(older) - (keep - 1))]:
        shutil.rmtree(path.with_name(f"{old:012d}"), ignore_errors=True)
    for leftover in path.parent.glob(".0*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return path


def restore(path: Path, like: State) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
        path: the checkpoint.
        like: a state of the same structure: arrays, on whose devices the restored ones
            are put, or the shapes that `jax.eval_shape` gives.

    Returns:
        The state, bit for bit as it was saved, and its metadata.

    Raises:
        DamagedCheckpointError: its files are not as they were written.
        CheckpointError: it holds a state of another structure.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    about = _verified(path)
    _check_same_leaves(path, about["leaves"], _describe(like))
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=getattr(x, "sharding", None)
        ),
        like,
    )
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(path / _STATE, abstract)
    return jax.tree.map(_placed, state, like), about["metadata"]


def restore_latest(folder: Path, like: State) -> tuple[State, dict[str, Any]] | None:
    """Reads the newest whole checkpoint; a damaged one is passed over with a warning.

    Returns:
        As `restore`, or None if the folder holds no checkpoint.

    Raises:
        CheckpointError: the newest whole one is of another structure, or all are
            damaged.
    """
    found = steps(folder)
    damaged: list[Path] = []
    for step in reversed(found):
        path = Path(folder) / f"{step:012d}"
        try:
            restored = restore(path, like)
        except DamagedCheckpointError as error:
            warnings.warn(f"{error} Going back to the one before it.", stacklevel=2)
            damaged.append(path)
        else:
            # Out of the way: the run is about to write these updates again.
            for newer in damaged:
                newer.rename(newer.with_name(f"damaged-{newer.name}"))
            return restored
    if found:
        raise CheckpointError(
            f"all {len(found)} checkpoints in {folder} are damaged. Restore them from a "
            f"copy, or start afresh in another folder."
        )
    return None


def steps(folder: Path) -> list[int]:
    """The updates of which a folder holds checkpoints, ascending."""
    if not Path(folder).is_dir():
        return []
    return sorted(
        int(p.name)
        for p in Path(folder).iterdir()
        if re.fullmatch("[0-9]{12}", p.name) and p.is_dir()
    )


def _require_space(folder: Path, state: Any) -> None:
    """Finds a full disk before Orbax does, whose threads would print pages about it."""
    needed = 2 * sum(x.nbytes for x in jax.tree.leaves(state)) + 2**19
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{free:,} bytes are free, and about {needed:,} are needed")


def _describe(state: Any) -> dict[str, list[Any]]:
    """Shape and dtype of every leaf, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path): [list(x.shape), str(x.dtype)] for path, x in leaves
    }


def _check_same_leaves(path: Path, found: dict[str, Any], wanted: dict[str, Any]):
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            there, here = (_leaf_text(tree.get(name)) for tree in (found, wanted))
            raise CheckpointError(
                f"{path} holds the state of another program: {name} is {there} in it "
                f"and {here} here. Use the settings it was made with, or another folder."
            )


def _leaf_text(leaf: list[Any] | None) -> str:
    return "absent" if leaf is None else f"{leaf[1]}{leaf[0]}"


def _placed(x: jax.Array, like: Any) -> jax.Array:
    """Leaves an array free to move unless `like` has a place for it.

    Orbax ties what it restores to a device; a program lowered for arrays so tied is
    another one than that of the run's start: compiled anew, its bits not promised.
    """
    if getattr(like, "sharding", None) is not None:
        return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = jnp.asarray(np.asarray(jax.random.key_data(x)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jnp.asarray(np.asarray(x))


def _checksums(path: Path) -> dict[str, str]:
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != _SUMS)
    return {
        p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
    }


def _verified(path: Path) -> dict[str, Any]:
    """The description of a checkpoint, once all its files have proved whole."""
    try:
        wanted = json.loads((path / _SUMS).read_text(encoding="utf-8"))
        found = _checksums(path)
        about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        if not isinstance(wanted, dict) or not isinstance(about, dict):
            raise ValueError("its descriptions are not JSON objects")
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read: {error}. Permit it.") from error
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: {error}.") from error
    bad = sorted(
        x for x in wanted.keys() | found.keys() if wanted.get(x) != found.get(x)
    )
    if bad:
        raise DamagedCheckpointError(
            f"{path} is damaged: {bad[0]} is not what was written."
        )
    return about
