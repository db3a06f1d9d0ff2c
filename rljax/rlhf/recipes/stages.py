"""The stages of a recipe: each is trained or computed once, measured, and kept.

    stages = Stages("tulu3", settings, RunOptions(out=Path("runs/tulu3")))
    tuned = stages.train(
        "sft", fine_tuning(module, config), SFTTask(rows, params), hyperparams,
        key=key, num_updates=500, rows_per_update=config.batch_size, headline="loss",
        params_of=lambda state: state.params, evaluate=measure,
        improves="exact_match", before=stages.measured["pretrained"],
    )

A stage has a folder of its own, `<out>/<stage>`, in which it is a run as any other. Killed
and repeated, a recipe goes on within the stage it was in; a finished stage is not run
again, and what it made comes back bit for bit.
"""

import dataclasses
import secrets
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Algorithm, Params
from rljax.numerics.compiler import Stopwatch
from rljax.numerics.processes import is_main
from rljax.numerics.validation import check_at_least
from rljax.rlhf.recipes.paired import paired_difference
from rljax.training import checkpoint
from rljax.training.files import RunError, flush_to_disk, sync
from rljax.training.loggers import LogEntry
from rljax.training.loop import train
from rljax.training.run_folder import RunFolder, RunOptions, stopped
from rljax.training.run_logger import RunLogger, shapes_as_placed

Measures = Mapping[str, Any]
Arrays = Mapping[str, Any]


class Stages:
    """Runs the stages of one recipe, in the order in which they are asked for.

    Args:
        name: of the recipe; part of what a folder must have been made with.
        settings: a dataclass of all that changes the result, as for `RunFolder`.
        options: where and how often to save; with out=None nothing is kept.

    Attributes:
        measured: of each stage so far what `evaluate` returned, as arrays, by its name.
        table: a row of figures of each stage so far.
    """

    def __init__(self, name: str, settings: Any, options: RunOptions):
        self.measured: dict[str, dict[str, np.ndarray]] = {}
        self.table: list[dict[str, Any]] = []
        self._name, self._settings, self._options = name, settings, options

    def train(
        self,
        stage: str,
        algorithm: Algorithm[Any],
        task: Any,
        hyperparams: Any,
        *,
        key: jax.Array,
        num_updates: int,
        rows_per_update: int,
        params_of: Callable[[Any], Params],
        evaluate: Callable[[Params], Measures],
        improves: str | None = None,
        before: Measures | None = None,
        unit: str = "rows",
        headline: str = "loss",
        take_updates: Callable[..., Any] | None = None,
        log_every: int | None = None,
        on_log_evaluate: Callable[[Params], Measures] | None = None,
    ) -> Params:
        """Returns the parameters that a stage has trained, now or before.

        Args:
            stage: its name, and that of its folder.
            algorithm: the learner.
            task: what it reads, the parameters to start from among it.
            hyperparams: of the learner.
            key: of the learner's start.
            num_updates: of the stage, at least 1.
            rows_per_update: rows that an update learns from.
            params_of: `(state) -> params` of the whole model, such as `trained_params`.
            evaluate: `(params) -> measures` by name, each a number or an array `[M]` over
                held-out prompts; called once, after training.
            improves: the measure that the stage is to raise.
            before: what it was before: the measures of another stage, or a number.
            unit: the plural of what is counted, such as completions.
            headline: the metric that the progress bar shows.
            take_updates: as for `rljax.training.loop.train`.
            log_every: updates between two rows of `metrics.jsonl`, where a stage can be
                stopped, too; by default there are about 50.
            on_log_evaluate: `(params) -> numbers` for these rows.

        Raises:
            ValueError: two stages have one name, or a measure is missing.
            RunError: a signal stopped it, or its checkpoint is gone.
        """
        check_at_least(1, num_updates=num_updates)
        with self._folder(stage) as folder:
            if folder.result is not None:
                like = shapes_as_placed(algorithm.init, key, hyperparams, task)
                params = params_of(_trained_state(folder, like))
                self._add(stage, folder, _read(folder.path, "measured"))
                return params
            run = RunLogger(
                folder,
                num_updates=num_updates,
                steps_per_update=rows_per_update,
                headline=headline,
                unit=unit,
            )

            def on_log(state: Any, entry: LogEntry) -> bool:
                if on_log_evaluate is not None:
                    found = on_log_evaluate(params_of(state))
                    values = {name: np.asarray(x) for name, x in found.items()}
                    entry = entry._replace(evaluation=values)
                return run.on_log(state, entry)

            state = train(
                algorithm,
                run.start(algorithm.init, key, hyperparams, task),
                task,
                run.updates_left,
                log_every=log_every or max(1, num_updates // 50),
                on_log=on_log,
                take_updates=take_updates,
            )
            run.check_finished()
            params = params_of(state)
            del state  # the optimizer's part is not needed while measuring
            measured = _arrays(evaluate(params))
            _write(folder.path, "measured", measured)
            run.finish(_figures(measured, improves, before))
            # A signal that came while measuring stops the recipe between two stages.
            if signal_name := folder.should_stop():
                raise stopped(signal_name, f"the end of {stage}", folder.path)
            self._add(stage, folder, measured)
        return params

    def compute(
        self, stage: str, function: Callable[[], tuple[Arrays, Measures]]
    ) -> dict[str, jax.Array]:
        """Returns the arrays of a stage that is no training, such as sampling, by name.

        Args:
            stage: its name, and that of its folder.
            function: `() -> (arrays, measures)`, called unless the stage is finished. Of
                a record `vars(record)` are the arrays, and `Record(**arrays)` is the
                record; a field that is None is left out.
        """
        with self._folder(stage) as folder:
            if folder.result is None:
                stopwatch = Stopwatch()
                found, measures = function()
                kept = {name: x for name, x in found.items() if x is not None}
                arrays, measured = _arrays(kept), _arrays(measures)
                _write(folder.path, "arrays", arrays)
                _write(folder.path, "measured", measured)
                totals = {
                    "seconds_run": stopwatch.seconds_run,
                    "seconds_compile": stopwatch.seconds_compile,
                    "rows": max((len(x) for x in arrays.values() if x.ndim), default=0),
                }
                folder.finish(_figures(measured, None, None), totals, unit="rows")
            else:
                arrays = _read(folder.path, "arrays")
                measured = _read(folder.path, "measured")
            self._add(stage, folder, measured)
        return {name: jnp.asarray(x) for name, x in arrays.items()}

    def measure(self, stage: str, evaluate: Callable[[], Measures]) -> None:
        """Adds a stage that only measures, such as the model that a recipe begins with."""
        self.compute(stage, lambda: ({}, evaluate()))

    def compare(self, name: str, measure: str, stage: str, other: str) -> None:
        """Adds a row of what one stage has of a measure more than another stage.

        Args:
            name: of the row.
            measure: of both stages.
            stage: the one that is expected to have more.
            other: the other.
        """
        figures = _improved(self.measured[stage], measure, self.measured[other])
        self.table.append({"stage": name} | figures)

    def _folder(self, stage: str) -> RunFolder:
        if stage in self.measured:
            raise ValueError(
                f"every stage needs a name of its own, got {stage!r} twice. Rename one."
            )
        options, out = self._options, self._options.out
        if out is not None:
            options = dataclasses.replace(options, out=out / stage)
        return RunFolder(f"{self._name} {stage}", self._settings, options)

    def _add(
        self, stage: str, folder: RunFolder, measured: dict[str, np.ndarray]
    ) -> None:
        kept = {
            name: x
            for name, x in (folder.result or {}).items()
            if name != "device" and not name.endswith("_per_second")
        }
        self.table.append({"stage": stage} | kept)
        self.measured[stage] = measured


def _figures(
    measured: dict[str, np.ndarray], improves: str | None, before: Measures | None
) -> dict[str, Any]:
    """Returns the means of what was measured, and what the stage has improved."""
    means = {name: float(np.mean(x, dtype=np.float64)) for name, x in measured.items()}
    if improves is None:
        return means
    return _improved(measured, improves, before or {}) | means


def _improved(after: Measures, improves: str, before: Measures) -> dict[str, Any]:
    """Returns the difference in one measure, as a row of the table has it."""
    for name, found in (("after", after), ("before", before)):
        if improves not in found:
            raise ValueError(
                f"measures {name} a stage must have {improves!r}, which it is to improve, "
                f"got {', '.join(found) or 'none'}. Let evaluate return it."
            )
    change = paired_difference(after[improves], before[improves])
    return {
        "improves": improves,
        "before": change.before,
        "after": change.after,
        "difference": change.mean,
        "interval": list(change.interval),
        "is_gain": change.is_gain,
    }


def _trained_state(folder: RunFolder, like: Any) -> Any:
    """Returns the state at the end of a stage that is finished."""
    where = Path(str(folder.path)) / "checkpoints"
    restored = checkpoint.restore_latest(where, like)
    if restored is None:
        raise RunError(
            f"{folder.path} is finished, but it has no checkpoint any more. Remove the "
            f"folder, and the same command trains it again."
        )
    return restored[0]


def _arrays(values: Measures) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in values.items()}


def _write(folder: Path | None, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays whole or not at all; in the first process, if there is a folder."""
    if folder is None or not is_main():
        return
    beside = folder / f".{name}.{secrets.token_hex(4)}"
    try:
        with beside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            flush_to_disk(file.fileno())
        beside.replace(folder / f"{name}.npz")
        sync(folder)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _read(folder: Path | None, name: str) -> dict[str, np.ndarray]:
    path = Path(str(folder)) / f"{name}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path} cannot be read: {error}. Remove its folder, and the same command "
            f"makes it again."
        ) from error
