r"""A file of rows made by several processes, the same to the byte as one process makes it.

    OUT.part-0-of-2, OUT.part-1-of-2    the rows of every second window so far
    OUT.part-0-of-2.json, ...           as for one process, and where its windows lie
    OUT.part, OUT.part.json             their windows in order, at the end

They share a file system, and divide the windows that one process would make, of which
each takes every N-th. No process waits for another until all its rows are written. Then
the first one puts the parts together, which takes as much room again, and removes them.
The same commands, of as many processes, go on after a kill at any moment.

A process that a signal or a row stops ends with status 1, and keeps what it wrote; the
others end with a status that is not 0 within a minute, as JAX finds it lost. Windows after
that of a row that cannot be scored may be written by then, so that --error-rows goes on,
and where the row is mended instead, the parts that have read it are to begin again.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from rljax.numerics.processes import agree, gather
from rljax.rlhf.data.sources import STDIN, Source, open_input
from rljax.rlhf.row_files.beside import (
    Share,
    beside,
    check_number,
    lock,
    read,
    remove_shares,
)
from rljax.rlhf.row_files.job import Job
from rljax.rlhf.row_files.lines import RowFileError
from rljax.training.distributed import check_same_everywhere
from rljax.training.files import RunError, flush_to_disk, one_line
from rljax.training.manifest import manifest

Value = TypeVar("Value")
_POLL_SECONDS = 0.2


def rewrite_together(job: Job[Any, Any], whole: Job[Any, Any]) -> dict[str, Any]:
    """Makes a process's share of an output, and returns the figures once it is whole.

    Args:
        job: of this process's share.
        whole: of a single process.

    Raises:
        RowFileError: as `rewrite`; before the work begins, in all processes.
        ValueError: the processes are to do different work.
    """
    _check_same(job)
    exists = job.share.process == 0 and job.output.exists()
    found = _in_all(whole.repeat if exists else lambda: None)
    if (result := agree(found)) is not None:
        return result
    with contextlib.ExitStack() as opened:
        source, sink, whole_sink = _in_all(lambda: _begin(job, whole, opened))
        job.go_on(source, sink)
        job.finish_share()
        if whole_sink is not None:
            while not all(map(_is_finished, _sidecars(job))):
                time.sleep(_POLL_SECONDS)
            return merge(whole, whole_sink, job.share.processes)
    # The first process removes it after all else.
    while job.sidecar.exists():
        time.sleep(_POLL_SECONDS)
    return read(job.run, dict)[0]["result"]


def merge(whole: Job[Any, Any], sink: BinaryIO, count: int) -> dict[str, Any]:
    """Puts the finished parts of so many processes together, and returns the figures.

    Numbers of rows, tokens and programs are added up, and seconds are the slowest
    process's.

    Args:
        whole: the job of a single process, nothing of which is done.
        sink: its part, which begins anew.
        count: of processes.

    Raises:
        RowFileError: the parts are not the windows of one input.
    """
    shares = [Share(i, count) for i in range(count)]
    parts, sidecars, _ = zip(*(beside(whole.output, x) for x in shares), strict=True)
    found = [read(path, type(whole.done)) for path in sidecars]
    _check_windows([about for about, _ in found], whole)
    whole.begin_anew(sink)
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(path.open("rb")) for path in parts]
        columns = [
            [(file, size) for _, _, size in about["windows"]]
            for file, (about, _) in zip(files, found, strict=True)
        ]
        for row in itertools.zip_longest(*columns):
            for file, size in filter(None, row):
                sink.write(file.read(size))
    sink.flush()
    flush_to_disk(sink.fileno())
    whole.done = found[0][1]
    for _, done in found[1:]:
        whole.done = whole.done.joined(done)
    whole.done.input_bytes, whole.done.input_sha256 = found[0][0]["input"]
    if sink.tell() != whole.done.output_bytes:
        raise _unlike(whole, count, "one is shorter than what was written")
    result = whole.finish()
    remove_shares(whole.output, shares)
    return result


def _check_same(job: Job[Any, Any]) -> None:
    if job.input == STDIN:
        raise RowFileError(
            f"the input of {job.share.processes} processes must be a file, which each of them "
            f"reads, got stdin. Write it to one, and name that with --input."
        )
    here = manifest("rows", job.done)
    check_same_everywhere(
        {
            "settings": job.about["settings"],
            "fingerprint": job.about["fingerprint"],
            "versions": here["versions"],
            "machine": here["machine"],
            "options": {
                "input": str(job.input),
                "output": str(job.output),
                "error_rows": job.error_rows,
            },
        }
    )


def _in_all(step: Callable[[], Value]) -> Value:
    """Returns what a step returns, once it is taken in all processes.

    Raises:
        RowFileError: it failed in one.
    """
    failed: RunError | OSError | None = None
    try:
        value = step()
    except (RunError, OSError) as error:
        failed = error
    reasons = gather(None if failed is None else one_line(failed))
    if failed is not None:
        raise failed
    for i, reason in enumerate(reasons):
        if reason is not None:
            raise RowFileError(f"in process {i}: {reason}.")
    return value


def _begin(
    job: Job[Any, Any], whole: Job[Any, Any], opened: contextlib.ExitStack
) -> tuple[Source, BinaryIO, BinaryIO | None]:
    """Returns input, part, and, of the first process, what the parts are to become."""
    job.output.parent.mkdir(parents=True, exist_ok=True)
    whole_sink = None
    if job.share.process == 0:  # which keeps out a single process, too
        whole_sink = opened.enter_context(lock(whole.part))
        check_number(job.output, job.share.processes)
        _check_whole(job, whole)
    source = opened.enter_context(open_input(job.input))
    sink = opened.enter_context(lock(job.part))
    job.resume(source.stream, sink)
    return source, sink, whole_sink


def _check_whole(job: Job[Any, Any], whole: Job[Any, Any]) -> None:
    """Refuses a part that was not put together, but begun by a single process."""
    ours = job.part.exists() and job.part.stat().st_size and whole.sidecar.exists()
    if whole.part.stat().st_size and not ours:
        raise RowFileError(
            f"{whole.part} was begun by one process, and here are {job.share.processes}. "
            f"Start one to go on, without --distributed, or remove {whole.part.name} and "
            f"{whole.sidecar.name} to begin again, or choose another --output."
        )


def _sidecars(job: Job[Any, Any]) -> list[Path]:
    count = job.share.processes
    return [beside(job.output, Share(i, count))[1] for i in range(count)]


def _is_finished(sidecar: Path) -> bool:
    return "input" in json.loads(sidecar.read_text(encoding="utf-8"))


def _check_windows(abouts: list[dict[str, Any]], whole: Job[Any, Any]) -> None:
    """Refuses parts whose windows, in order, are not one after the other in the input."""
    count = len(abouts)
    if any(about["input"] != abouts[0]["input"] for about in abouts):
        raise _unlike(whole, count, "the input was changed on the way")
    end = 0
    for row in itertools.zip_longest(*(about["windows"] for about in abouts)):
        for begin, after, _ in filter(None, row):
            if begin != end:
                raise _unlike(whole, count, f"none begins at byte {end:,} of the input")
            end = after
    if end != abouts[0]["input"][0]:
        raise _unlike(whole, count, f"none begins at byte {end:,} of the input")


def _unlike(whole: Job[Any, Any], count: int, reason: str) -> RowFileError:
    name = whole.output.name
    return RowFileError(
        f"the parts of {whole.output} do not fit together: {reason}. Remove "
        f"{name}.part-*-of-{count}* to begin again."
    )
