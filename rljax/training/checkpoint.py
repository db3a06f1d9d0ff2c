"""Checkpoints: states on disk, written completely or not at all.

A checkpoint is the folder `<step>/state`, named by the number of updates: the arrays as
Orbax writes them, a description of every leaf, and a checksum of every file. Orbax's
CheckpointManager writes under a temporary name, renames it, and removes old ones.
"""

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from rljax.numerics.processes import (
    agree,
    everywhere_sharding,
    gather,
    is_lost,
    is_main,
    of_all_processes,
)
from rljax.numerics.random import is_key
from rljax.training.files import sync

State = TypeVar("State")

ARRAYS, DESCRIPTION, CHECKSUMS = "arrays", "about.json", "sha256.json"
_ITEM = "state"
_NOT_SUMMED = (CHECKSUMS, "commit_success.txt")  # Orbax writes the second one last


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, is damaged, or is of another program."""


class DamagedCheckpointError(CheckpointError):
    """The files of a checkpoint are not those that were written."""


def save(
    folder: Path | str,
    step: int,
    state: Any,
    metadata: dict[str, Any],
    *,
    keep: int = 3,
) -> Path:
    """Writes the checkpoint `folder/<step>` and removes all but the newest `keep`.

    Checkpoints of this and later updates, of an earlier process, are removed first.
    Of several processes all call it, with the same folder, and the same state where it is
    not divided among their devices.

    Args:
        folder: the folder of the run's checkpoints; made if missing.
        step: updates taken; the checkpoint's name.
        state: any pytree of arrays, typed keys included.
        metadata: JSON to store beside it.
        keep: number of checkpoints to leave, this one included.

    Returns:
        The checkpoint's path.

    Raises:
        TypeError: a leaf is no array, the step no whole number, or the metadata no JSON.
        CheckpointError: it could not be written. Those of earlier updates are as they
            were; one of this update, or a later one, is removed before.
    """
    _check(step, state, metadata)
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import LatestN

    from rljax.training.checkpoint_handler import ChecksumSave

    folder = Path(folder).absolute()
    path = folder / f"{step:012d}"
    description = {"step": int(step), "metadata": metadata, "leaves": _describe(state)}
    options = ocp.CheckpointManagerOptions(
        step_format_fixed_length=12,
        preservation_policy=LatestN(keep),
        enable_async_checkpointing=False,  # the next chunk overwrites the state
        cleanup_tmp_directories=True,
        save_root_metadata=False,
        lightweight_initialize=True,
    )
    item = ChecksumSave(_without_empty(of_all_processes(state)), description)
    arguments = ocp.args.Composite(**{_ITEM: item})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # On a full disk Orbax's threads print pages.
        needed = 2 * sum(x.nbytes for x in jax.tree.leaves(state)) + 2**19
        if (free := shutil.disk_usage(folder).free) < needed:
            raise OSError(f"{free:,} bytes are free, and about {needed:,} are needed")
        with ocp.CheckpointManager(folder, options=options) as manager:
            for later in agree([x for x in steps(folder) if x >= step]):
                manager.delete(later)
            manager.save(int(step), args=arguments, force=True)
        sync(path)
        sync(folder)
    # Orbax reports a full disk in exceptions of several unrelated types.
    except Exception as error:
        if is_lost(error):
            raise
        for unfinished in folder.glob("*.orbax-checkpoint-tmp*") if is_main() else []:
            shutil.rmtree(unfinished, ignore_errors=True)
        reason = next(iter(str(error).strip().splitlines()), repr(error))
        raise CheckpointError(
            f"could not write the checkpoint {path}: {reason}. Make room, or make it "
            f"writable, and run the same command again: earlier checkpoints are whole."
        ) from error
    return path


def _check(step: Any, state: Any, metadata: Any) -> None:
    if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
        raise TypeError(
            f"step must be a whole number of updates, got {step!r}. Use int(state.step), "
            f"say."
        )
    # Orbax's own names, in which {"a.b": x} and {"a": {"b": x}} are one.
    names: set[str] = set()
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        if not isinstance(x, jax.Array | np.ndarray):
            raise TypeError(
                f"a checkpoint holds arrays, got the {type(x).__name__} {x!r} at "
                f"state{jax.tree_util.keystr(path)}. Make it one of a fixed dtype: "
                f"jnp.int32(...) or jnp.float32(...)."
            )
        kept: Any = x.dtype if is_key(x) else jax.dtypes.canonicalize_dtype(x.dtype)
        if kept != x.dtype:
            raise TypeError(
                f"a checkpoint holds what JAX computes with, got {x.dtype} at "
                f"state{jax.tree_util.keystr(path)}, which would become {kept}. Convert it "
                f"with .astype(...), or allow 64 bits: JAX_ENABLE_X64=1."
            )
        if isinstance(x, jax.Array) and x.is_deleted():
            raise TypeError(
                f"the array at state{jax.tree_util.keystr(path)} was given away (donated) "
                f"to a program. Save a copy made before."
            )
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name in names:
            raise TypeError(
                f"a checkpoint's arrays have a name each, got {name} twice. Use keys "
                f"without dots."
            )
        names.add(name)
    if not names:
        raise TypeError("a checkpoint holds arrays, got none. Add the step, say.")
    try:
        json.dumps(metadata)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"metadata must be JSON, got {metadata!r}: {error}. Convert its numbers with "
            f"int(...) or float(...)."
        ) from error


def restore(path: Path | str, like: State) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
        path: the checkpoint.
        like: a state of the same structure: arrays, on whose devices the restored ones
            are put, or shapes.

    Returns:
        The state, bit for bit as it was saved, and its metadata.

    Raises:
        DamagedCheckpointError: its files are not as they were written.
        CheckpointError: it holds a state of another structure, or an earlier version of
            rljax wrote it.
    """
    path = Path(path).absolute()
    return _read(path, _verified(path), like)


def _read(
    path: Path, description: dict[str, Any], like: State
) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint whose files are whole."""
    import orbax.checkpoint as ocp

    leaves = [description["leaves"], _describe(like)]
    for name in sorted(set().union(*leaves)):
        there, here = (x.get(name) for x in leaves)
        if there != here:
            there, here = (
                "absent" if x is None else f"{x[1]}{x[0]}" for x in (there, here)
            )
            raise CheckpointError(
                f"{path} holds the state of another program: {name} is {there} in it "
                f"and {here} here. Use the settings it was made with, or another "
                f"folder."
            )
    abstract = jax.tree.map(_as_read, _without_empty(like))
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(path / _ITEM / ARRAYS, abstract)
    saved = iter(jax.tree.leaves(state))
    state = jax.tree.map(
        lambda x: _placed(next(saved), x) if x.size else jnp.zeros(x.shape, x.dtype),
        like,
    )
    return state, description["metadata"]


def _as_read(like: Any) -> Any:
    """What tells Orbax where to put an array: where `like` lies, else on the host.

    Where it was saved may be devices that there are not here.
    """
    where = _sharding(like)
    if where is None and not jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return np.zeros(like.shape, like.dtype)
    where = where or everywhere_sharding()
    where = where or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=where)


def _without_empty(state: Any) -> Any:
    """The state without arrays of no elements, which Orbax cannot save."""
    return jax.tree.map(lambda x: x if x.size else None, state)


def restore_latest(
    folder: Path | str, like: State
) -> tuple[State, dict[str, Any]] | None:
    """Reads the newest whole checkpoint; a damaged one is passed over with a warning.

    Returns:
        As `restore`, or None if the folder holds no checkpoint.

    Raises:
        CheckpointError: that one is of another structure, or all are damaged.
    """
    damaged: list[Path] = []
    for step in reversed(agree(steps(folder))):
        path = Path(folder).absolute() / f"{step:012d}"
        description, reason = None, None
        try:
            description = _verified(path)
        except DamagedCheckpointError as error:
            reason = str(error)
        # What one process cannot read, none of them does.
        reason = next(filter(None, gather(reason)), None)
        if reason is not None or description is None:
            warnings.warn(f"{reason} Going back to the one before it.", stacklevel=2)
            damaged.append(path)
            continue
        restored = _read(path, description, like)
        # The run is about to write these updates again.
        for newer in damaged if is_main() else []:
            aside = newer.with_name(f"damaged-{newer.name}")
            shutil.rmtree(aside, ignore_errors=True)
            newer.rename(aside)
        return restored
    if damaged:
        raise CheckpointError(
            f"all {len(damaged)} checkpoints in {folder} are damaged. Restore them "
            f"from a copy, or start afresh in another folder."
        )
    return None


def steps(folder: Path | str) -> list[int]:
    """Returns the updates of which a folder holds checkpoints, ascending."""
    found = Path(folder).glob("[0-9]" * 12)
    return sorted(int(path.name) for path in found if path.is_dir())


def _describe(state: Any) -> dict[str, list[Any]]:
    """Returns the shape and dtype of every leaf, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path): [list(x.shape), str(x.dtype)] for path, x in leaves
    }


def _sharding(like: Any) -> Any:
    return getattr(like, "sharding", None)


def _placed(x: jax.Array, like: Any) -> jax.Array:
    """Returns an array that is tied to a device, as Orbax's are, only if `like` is.

    Arrays so tied would be lowered to another program than that of the run's start.
    """
    if _sharding(like) is not None:
        return x
    if is_key(x):
        data = jnp.asarray(np.asarray(jax.random.key_data(x)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jnp.asarray(np.asarray(x))


def checksums(folder: Path | str) -> dict[str, str]:
    """Returns the SHA-256 of every file of a checkpoint, by its path in the folder."""
    folder = Path(folder)
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in _NOT_SUMMED
    }


def _verified(path: Path) -> dict[str, Any]:
    """Returns the description of a checkpoint after checking all its files."""
    if (path / CHECKSUMS).exists():
        raise CheckpointError(
            f"{path} was written by an earlier version of rljax, in another layout. "
            f"Finish the run with that version, or choose another folder."
        )
    folder = path / _ITEM
    try:
        wanted = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        found = checksums(folder)
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if not isinstance(wanted, dict) or not isinstance(description, dict):
            raise ValueError("its descriptions are not JSON objects")
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read: {error}. Permit it.") from error
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: {error}.") from error
    names = wanted.keys() | found.keys()
    if changed := sorted(x for x in names if wanted.get(x) != found.get(x)):
        raise DamagedCheckpointError(
            f"{path} is damaged: {changed[0]} is not what was written."
        )
    return description
