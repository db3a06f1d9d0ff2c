"""The main function of an experiment: flags, one JSON line, an exit status."""

import contextlib
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax

from rljax.numerics.validation import check_at_least
from rljax.training.checkpoint import CheckpointError
from rljax.training.files import RunError, dumps
from rljax.training.loggers import log_line

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
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)

    with exit_on_errors(
        disk="Make room, or make it writable, or choose another --out; the same command "
        "goes on from the newest checkpoint.",
        memory="Use fewer seeds or environments.",
    ):
        parsed = tyro.cli(
            settings, description=description, config=(tyro.conf.OmitArgPrefixes,)
        )
        use_compile_cache()
        result = main(parsed)
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
        log_line(f"error: {error}")
        sys.exit(1)
    except BrokenPipeError:  # the reader closed the pipe, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        log_line(f"error: {error}. {disk}")
        sys.exit(1)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        log_line(f"error: out of memory: {error}. {memory}")
        sys.exit(1)
    except ValueError as error:
        if not _is_usage_error(error):
            raise
        log_line(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        log_line("error: stopped at once; what was saved before is whole.")
        sys.exit(1)


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
