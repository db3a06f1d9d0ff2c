"""The files beside an output while it is made: what they are called, and are about."""

import contextlib
import glob
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from rljax.rlhf.data.sources import STDIN
from rljax.rlhf.row_files.lines import RowFileError
from rljax.training.files import locked

FORMAT = 1
Part = TypeVar("Part")


class Share(NamedTuple):
    """Every so many-th window of a file, as many as `processes`, from `process` on."""

    process: int = 0
    processes: int = 1


WHOLE = Share()


def check_paths(input: Path, output: Path) -> None:
    """Refuses files of which nothing can be made whatever is done.

    Raises:
        RowFileError: the input is no file that can be read, or also the output.
    """
    try:
        if input == STDIN:
            return
        if not input.is_file():
            what = "a folder" if input.is_dir() else "no file"
            raise RowFileError(
                f"the input must be a file of rows, got {input}, which is {what}. Choose "
                f"another --input."
            )
        input.open("rb").close()
        if output.is_dir():
            raise RowFileError(
                f"the output must be a file, got the folder {output}. Name a file in it "
                f"with --output."
            )
        shares = [path for share in _shares(output) for path in beside(output, share)]
        for path in (output, *beside(output), *shares):
            if path.exists() and path.samefile(input):
                raise RowFileError(
                    f"{input} is read, so it cannot be written as {path.name} too. "
                    f"Choose another --output."
                )
    except OSError as error:
        raise RowFileError(
            f"{error}. Make it readable, or choose another file."
        ) from error


def settings_before(output: Path) -> dict[str, Any]:
    """Returns the settings that an output was begun with; nothing if it was not begun."""
    output = Path(output)
    _, sidecar, run = beside(output)
    for path in (sidecar, *(beside(output, share)[1] for share in _shares(output))):
        if path.exists():
            return read(path, dict)[0]["settings"]
    if output.exists() and run.exists():
        return read(run, dict)[0]["settings"]
    return {}


def beside(output: Path, share: Share = WHOLE) -> tuple[Path, Path, Path]:
    """Returns the part, its sidecar, and the sidecar of the finished file."""
    end = (
        ".part"
        if share.processes == 1
        else f".part-{share.process}-of-{share.processes}"
    )
    part, run = (output.with_name(output.name + x) for x in (end, ".run.json"))
    return part, part.with_name(part.name + ".json"), run


def read(path: Path, kind: Callable[..., Part]) -> tuple[dict[str, Any], Part]:
    """Returns what a sidecar holds, and how much is done, as an instance of `kind`.

    Raises:
        RowFileError: it is something else.
    """
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {about['format']!r}")
        for group in ("settings", "fingerprint"):
            if not isinstance(about[group], dict):
                raise ValueError(f"it has no {group}")
        return about, kind(**about["done"])
    except (ValueError, KeyError, TypeError) as error:
        raise RowFileError(
            f"{path} is not what this command writes: {error!r}. Remove it together with "
            f"the file that it describes, or choose another --output."
        ) from error


def lock(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """Opens a file for reading and writing, and locks it against other processes."""
    remedy = "Wait for it, or choose another --output."
    return locked(path, f"another process is writing {path}. {remedy}")


def check_number(output: Path, count: int) -> None:
    """Removes empty parts of another number of processes.

    Raises:
        RowFileError: one is not empty.
    """
    for share in _shares(output):
        part, *_ = beside(output, share)
        if share.processes != count and part.exists() and part.stat().st_size:
            raise RowFileError(
                f"{part} was begun by one of {share.processes} processes, and "
                f"{_so_many(count)}. Start {share.processes} to go on, or remove "
                f"{output.name}.part-*-of-{share.processes}* to begin again, or choose "
                f"another --output."
            )
    remove_shares(output, [x for x in _shares(output) if x.processes != count])


def remove_shares(output: Path, shares: list[Share] | None = None) -> None:
    """Removes the parts of several processes, all by default; the sidecars are last."""
    for share in _shares(output) if shares is None else shares:
        part, sidecar, _ = beside(output, share)
        remove_torn(sidecar)
        part.unlink(missing_ok=True)
        sidecar.unlink(missing_ok=True)


def remove_torn(sidecar: Path) -> None:
    """Removes what is left of writes of a sidecar that were killed."""
    for path in sidecar.parent.glob(glob.escape(f".{sidecar.name}.") + "*"):
        path.unlink()


def _shares(output: Path) -> list[Share]:
    """Returns the shares of which there is a part, or its sidecar."""
    form = re.compile(re.escape(output.name) + r"\.part-(\d+)-of-(\d+)(\.json)?")
    names = [path.name for path in output.parent.glob("*.part-*-of-*")]
    found = [match for name in names if (match := form.fullmatch(name))]
    return sorted({Share(int(match[1]), int(match[2])) for match in found})


def _so_many(count: int) -> str:
    return "here is one" if count == 1 else f"here are {count}"
