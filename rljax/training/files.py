"""Atomic and locked files, and strict JSON."""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


class FolderError(ValueError):
    """A folder cannot be read as intended; the message says why."""


class RunError(RuntimeError):
    """The run cannot go on; the message says why and what to do."""


def one_line(error: BaseException) -> str:
    """Returns an error's text without line breaks, and without its full stop."""
    return " ".join(str(error).split()).rstrip(".")


def dumps(value: Any, **options: Any) -> str:
    """Returns strict JSON: numbers that are not finite become null, arrays lists."""
    return json.dumps(_plain(value), allow_nan=False, **options)


def write_atomically(path: Path | str, text: str) -> None:
    """Replaces a file so that a reader sees all of the old text or all of the new."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            flush_to_disk(file.fileno())
        beside.replace(path)
        sync(path.parent)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
        RunError: it cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read: {error}. Restore it, or choose another --out."
        ) from error
    return value


@contextlib.contextmanager
def locked(path: Path, in_use: str) -> Iterator[BinaryIO]:
    """Opens a file for reading and writing, made if missing, and locks it.

    The lock stays with the file when it is renamed, and ends with the process.

    Raises:
        RunError: another process has locked it; `in_use` is the message.
    """
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError  # it was renamed before it was locked
        except ImportError:  # not a Unix: no lock
            pass
        except (BlockingIOError, FileNotFoundError):
            raise RunError(in_use) from None
        yield file


# What systems say that cannot do it: some network file systems, and Windows for folders.
_CANNOT_SYNC = {
    errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF,
    errno.EACCES, errno.EPERM, errno.EISDIR,
}  # fmt: skip


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flushes a file, or a folder's list of names, to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        _warn_once_or_raise(error)
        return
    try:
        flush_to_disk(descriptor)
    finally:
        os.close(descriptor)


def flush_to_disk(descriptor: int) -> None:
    """`os.fsync`; where the file system has none, goes on with one warning."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        _warn_once_or_raise(error)


def _warn_once_or_raise(error: OSError) -> None:
    if error.errno not in _CANNOT_SYNC:
        raise error
    _warn_about_sync()


@functools.cache
def _warn_about_sync() -> None:
    warnings.warn(
        "this file system cannot flush to the disk: what was written last may be lost if "
        "the machine loses power.",
        stacklevel=2,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype == np.float32:
            # The shortest decimal that reads back as the same float32.
            array = array.astype(str).astype(np.float64)
        return _plain(array.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_object(path: Path, error: type[FolderError]) -> dict[str, Any]:
    """Returns the object in a JSON file of a folder that somebody else wrote.

    Raises `error` if it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as reason:
        raise error(f"{path} is not JSON: {reason}.") from reason
    if not isinstance(value, dict):
        raise error(f"{path} must hold a JSON object.")
    return value


def inside(folder: Path, name: str) -> Path:
    """Returns the path of a file of a folder that is not trusted; it need not exist.

    Raises:
        FolderError: it lies outside the folder, by its name or by a link. Links into the
            `blobs` of a Hugging Face cache, of which the folder is a snapshot, are fine.
    """
    folder = Path(folder)
    path, root = folder / name, folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    named_outside = Path(name).is_absolute() or ".." in Path(name).parts
    if named_outside or not any(map(path.resolve().is_relative_to, allowed)):
        raise FolderError(
            f"{name!r} lies outside the folder {folder}, and nothing outside is read. "
            f"Put the file into the folder itself."
        )
    return path
