r"""A file of rows made into another of JSON lines, and gone on with where it was killed.

    OUT.part        rows so far, in the input's order
    OUT.part.json   what they were made with, and how far they are known to be whole
    OUT             all rows, once there are all
    OUT.run.json    what they were made with, and the figures

The same command on a part goes on after its last whole window, so every row is there
once; on a finished file it repeats the figures; where what it would do differs from what
was done, it refuses. Lines of the input that were not read yet may be changed. How
several processes share the work is described in `shares`.
"""

from pathlib import Path
from typing import Any, TypeVar

import jax

from rljax.numerics.processes import num_processes
from rljax.rlhf.data.sources import open_input
from rljax.rlhf.row_files import shares
from rljax.rlhf.row_files.beside import (
    FORMAT,
    Share,
    check_number,
    check_paths,
    lock,
)
from rljax.rlhf.row_files.counts import Progress
from rljax.rlhf.row_files.job import Job, Work
from rljax.rlhf.row_files.lines import RowFileError
from rljax.training.files import RunError
from rljax.training.interrupts import Interrupted, catch_interrupts

Results = TypeVar("Results")
Done = TypeVar("Done", bound=Progress)


def rewrite(
    work: Work[Results, Done],
    input: Path,
    output: Path,
    *,
    settings: dict[str, Any],
    fingerprint: dict[str, str],
    error_rows: bool = False,
) -> dict[str, Any]:
    """Writes what work makes of every row of a file, in order; see the module.

    The input is JSON lines (gzipped or not), a JSON array or Parquet, or stdin (`-`). The
    output does not exist yet, or was begun by the same call: a part of other `settings`,
    JSON values by name, or of another `fingerprint`, is refused. With `error_rows` a row
    of which nothing can be made becomes one with the reason, rather than an error; a part
    without any may go on either way. Of several processes all call it, with the same
    arguments.

    Returns:
        The figures, as they lie in OUT.run.json.

    Raises:
        RowFileError: nothing can be made of a row, the part or the output is of something
            else, another process writes it, or a signal or the disk stopped us.
        ValueError: the processes are to do different work.
    """
    input, output = Path(input), Path(output)
    check_paths(input, output)
    about = {"format": FORMAT, "settings": settings, "fingerprint": fingerprint}
    whole = job = Job(work, input, output, about, error_rows)
    if (count := num_processes()) > 1:
        job = whole.of(Share(jax.process_index(), count))
    try:
        with catch_interrupts(raise_at_once=True):
            if count == 1:
                return _rewrite_alone(job)
            return shares.rewrite_together(job, whole)
    except Interrupted as error:
        raise RowFileError(
            f"stopped by {error}: the same command goes on after row "
            f"{job.done.rows:,} ({job.part})."
        ) from None
    except OSError as error:
        raise RowFileError(
            f"{error}. Make room, or make it writable, or choose another --output; the "
            f"same command goes on after row {job.done.rows:,}."
        ) from error
    except RunError as error:
        raise RowFileError(*error.args) from error.__cause__


def _rewrite_alone(job: Job[Any, Any]) -> dict[str, Any]:
    if job.output.exists():
        return job.repeat()
    job.output.parent.mkdir(parents=True, exist_ok=True)
    with open_input(job.input) as source, lock(job.part) as sink:
        check_number(job.output, 1)
        job.resume(source.stream, sink)
        job.go_on(source, sink)
        return job.finish()
