"""The main function of an experiment: flags, one JSON line, an exit status."""

import argparse
import contextlib
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax

from rljax.numerics.precision import use_matmul_precision
from rljax.numerics.processes import is_lost, is_main, num_processes
from rljax.numerics.validation import check_at_least
from rljax.training.checkpoint import CheckpointError
from rljax.training.distributed import connect
from rljax.training.files import RunError, dumps, one_line
from rljax.training.loggers import log_line
from rljax.training.run_folder import RunOptions

Settings = TypeVar("Settings")


def launch(
    main: Callable[[Settings], dict[str, Any]],
    settings: type[Settings],
    description: str | None,
    *,
    all_cores: bool = False,
) -> None:
    """Runs an experiment from the command line, and exits.

    Flags are the fields of the dataclass `settings`. The last line of stdout is the
    result as JSON.
    Exit status: 0 done, 1 the run failed (one line on stderr has the reason), 2 bad
    usage. `description` is the beginning of `--help`; with `all_cores`, each core of a
    CPU is a device.
    """
    import tyro

    if all_cores:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    with exit_on_errors(
        disk="Make room, or make it writable, or choose another --out; the same command "
        "goes on from the newest checkpoint.",
        memory="Use fewer seeds or environments.",
    ):
        connect_if_asked()
        parsed = tyro.cli(
            settings, description=description, config=(tyro.conf.OmitArgPrefixes,)
        )
        for part in vars(parsed).values():
            if isinstance(part, RunOptions):
                use_matmul_precision(part.matmul_precision)
        use_compile_cache()
        print_result(main(parsed))


def connect_if_asked() -> None:
    """Makes this process one of several, if the flag --distributed was given.

    Before all other flags are read, as those may already be checked with JAX.
    """
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--distributed")
    flags.add_argument("--connect-timeout", "--connect_timeout", type=int, default=50)
    found, _ = flags.parse_known_args()
    if found.distributed is not None:
        connect(found.distributed, found.connect_timeout)


def print_result(result: dict[str, Any]) -> None:
    """Prints a result as the last line of stdout, in the first process only."""
    if is_main():
        print(dumps(result), flush=True)  # noqa: T201


@contextlib.contextmanager
def exit_on_errors(*, disk: str, memory: str) -> Iterator[None]:
    """Turns a user's errors into one line on stderr and an exit status.

    1: the run failed; 2: bad usage. Unforeseen errors keep their traceback. Warnings
    become one line each. `disk` and `memory` are advice for a file that cannot be read
    or written, and for a device without enough memory.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    except (CheckpointError, RunError, ImportError, MemoryError) as error:
        _leave(1, str(error))
    except BrokenPipeError:  # the reader closed the pipe, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _leave(1, f"{error}. {disk}")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            _leave(1, f"out of memory: {error}. {memory}")
        _end_job(error)
        raise
    except ValueError as error:
        if _is_usage_error(error):
            _leave(2, str(error))
        _end_job(error)
        raise
    except SystemExit as error:  # the command line was wrong, which was said
        if num_processes() > 1 and error.code:
            _leave(2, "bad usage")
        raise
    except KeyboardInterrupt:
        _leave(1, "stopped at once; what was saved before is whole.")
    except Exception as error:
        _end_job(error)
        raise


_ALL = "The same command in all of them goes on from what was saved."


def _leave(status: int, reason: str) -> NoReturn:
    """Exits with a reason; of several processes, without waiting for the others."""
    if num_processes() == 1:
        print(f"error: {reason}", file=sys.stderr, flush=True)  # noqa: T201
        sys.exit(status)
    text = f"error in process {jax.process_index()}: {reason}"
    print(text, file=sys.stderr, flush=True)  # noqa: T201
    # JAX would first wait for those that wait for this one. They end as soon as the first
    # one has ended, so that it leaves them the time to say why themselves.
    time.sleep(3 if is_main() else 0)
    sys.stdout.flush()
    os._exit(status)


def _end_job(error: Exception) -> None:
    """Exits where an error of one of several processes has to end all of them."""
    if num_processes() == 1:
        return
    traceback.print_exc()
    what = "this error ends the whole job"
    if is_lost(error):
        what = f"another process of the job was lost: {one_line(error)}"
    _leave(1, f"{what}. {_ALL}")


def check_seed(seed: int) -> None:
    """Raises a ValueError if a seed is not one that a key can be made of."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in [0, 2**32), got {seed}. Change it.")


def check_counts(settings: Any, *names: str, least: int = 1) -> None:
    """Raises a ValueError if a field of these names is below the least it may be."""
    check_at_least(least, **{name: getattr(settings, name) for name in names})


def use_compile_cache() -> None:
    """Turns on JAX's persistent compilation cache, for programs of every size.

    It is in the folder `JAX_COMPILATION_CACHE_DIR`, or in the user's cache folder. If
    that cannot be written, there is one warning and no cache.
    """
    # Unlike Path.home(), this leaves "~" where the user has no home.
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    default = Path(home) / "rljax" / "xla"
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or default
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        jax.config.update("jax_enable_compilation_cache", False)
        log_line(
            f"warning: no compile cache, {folder} cannot be written ({error.strerror}); "
            f"set JAX_COMPILATION_CACHE_DIR to a folder that can."
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _is_usage_error(error: BaseException) -> bool:
    """Returns whether this package raised a ValueError about its input, not JAX."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    return module.split(".")[0] in ("rljax", "__main__")
