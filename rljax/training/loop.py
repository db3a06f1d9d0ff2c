"""The training loop: compiled chunks of updates, and host work between them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Algorithm, Metrics, State
from rljax.numerics.compiler import Memory, Stopwatch, compiler_options, memory_of
from rljax.numerics.processes import agree, any_process, to_host
from rljax.numerics.sums import add_compensated
from rljax.training.files import RunError
from rljax.training.loggers import LogEntry, value_of


class PooledMetrics(NamedTuple):
    """Metrics pooled over many updates.

    Attributes:
        sums: the metrics, added up.
        lost: what rounding took from each sum; see `add_compensated`.
    """

    sums: Metrics
    lost: Metrics


def train(
    algorithm: Algorithm[State],
    state: State,
    task: Any,
    num_updates: int,
    *,
    log_every: int | None = None,
    on_log: Callable[[State, LogEntry], bool | None] | None = None,
    evaluate: Callable[[State, jax.Array], dict[str, jax.Array]] | None = None,
    evaluate_every: int | None = None,
    evaluation_key: jax.Array | None = None,
    pause_every: float | None = None,
    on_pause: Callable[[State, PooledMetrics], bool | None] | None = None,
    metrics: PooledMetrics | None = None,
    raise_if_diverged: bool = True,
    take_updates: Callable[..., tuple[State, PooledMetrics]] | None = None,
) -> State:
    """Takes `num_updates` updates, reporting between compiled chunks of them.

    How a run is cut into chunks, or stopped, saved and continued, changes no bit of its
    result.

    Args:
        algorithm: the learner, or a `population` of them.
        state: where to go on from; it stays valid.
        task: what the learner reads.
        num_updates: updates to take from here.
        log_every: report whenever `state.step` is a multiple of this, and at the end;
            by default at the end only.
        on_log: called with the state, whose memory the next chunk reuses, and a
            `LogEntry`; returning True stops the run.
        evaluate: `(state, key) -> metrics`, pure; compiled here. Called before the
            first update of all, at multiples of `evaluate_every`, and at the end.
        evaluate_every: a multiple of `log_every`; by default at the end only.
        evaluation_key: seeds the evaluations, apart from training; each one's key is
            `fold_in(evaluation_key, state.step)`.
        pause_every: seconds, about, between two calls of `on_pause`.
        on_pause: called between reports with the state and the metrics pooled since the
            last one; save both to go on from here. Returning True stops.
        metrics: those passed to `on_pause` together with this state.
        raise_if_diverged: end where no member has finite parameters and losses (metrics
            named so) any more. Where some have, `LogEntry.diverged` says which have not.
        take_updates: takes updates in place of `updates_program()`, with the same
            arguments: where they need the host, such as for rewards of texts.

    Returns:
        The state after the last update taken.

    Raises:
        ValueError: a number of updates or an interval is wrong, a key is missing, or
            the algorithm refuses its hyperparameters or task.
        RunError: the run diverged, or all of a population did; found at a report.
    """
    algorithm.check(state, task)
    _check(num_updates, log_every, evaluate, evaluate_every, evaluation_key)
    stopwatch, step = Stopwatch(), updates_taken(state)
    last = step + int(num_updates)
    if last >= 2**31:
        raise ValueError(
            f"updates are counted in an int32, up to 2**31 - 1; got num_updates="
            f"{num_updates:,} after {step:,}. Take fewer, of larger batches."
        )
    evaluator = None if evaluate is None else jax.jit(evaluate)
    take_updates = updates_program() if take_updates is None else take_updates

    # Updates overwrite the state: a copy keeps the caller's, and separates leaves that
    # share memory.
    state = copied(state)
    pooled = no_metrics(algorithm, state, task) if metrics is None else metrics

    def report(metrics: Metrics, due: bool) -> bool:
        metrics = to_host(metrics)
        lost = diverged(state, metrics)
        if raise_if_diverged and lost.all():
            runs = f"all {lost.size} runs have" if lost.size > 1 else "the run has"
            names = [n for n, x in metrics.items() if not np.isfinite(x.total).all()]
            which = f"; of the metrics {', '.join(names)}" if names else ""
            raise RunError(
                f"training diverged: {runs} parameters or losses that are not finite, "
                f"found at update {step:,}{which}. Lower the learning rate, or mend or "
                f"scale rewards."
            )
        evaluation = {}
        if due and evaluator is not None and evaluation_key is not None:
            found = evaluator(state, jax.random.fold_in(evaluation_key, step))
            evaluation = to_host(found)
        if on_log is None:
            return False
        values = {name: value_of(mean) for name, mean in metrics.items()}
        seconds = stopwatch.seconds_compile, stopwatch.seconds_run
        entry = LogEntry(step, values, evaluation, *seconds, lost)
        return any_process(bool(on_log(state, entry)))

    if step == 0 and evaluator is not None and report({}, due=True):
        return state
    chunk_length = 1 << 30 if pause_every is None else 1
    while step < last:
        until_report = last - step
        if log_every is not None:
            until_report = min(until_report, log_every - step % log_every)
        length = min(until_report, chunk_length)
        chunk = Stopwatch()
        state, pooled = jax.block_until_ready(
            take_updates(algorithm, state, task, jnp.int32(length), pooled)
        )
        step += length
        if pause_every is not None:
            rate = length / max(chunk.seconds_run, 1e-9)
            chunk_length = agree(int(min(max(rate * pause_every, 1), 1 << 30)))
        if length < until_report:
            if on_pause is not None and any_process(bool(on_pause(state, pooled))):
                break
            continue
        due = step == last or (
            evaluate_every is not None and step % evaluate_every == 0
        )
        if report(pooled.sums, due):
            break
        pooled = jax.tree.map(jnp.zeros_like, pooled)
    return state


@functools.cache
def updates_program() -> Any:
    """The jitted `(algorithm, state, task, num_updates, metrics) -> (state, metrics)`.

    Takes `num_updates` updates, a traced number, and pools their metrics into `metrics`.
    The memory of `state` is reused.
    """

    def updates(algorithm, state, task, num_updates, metrics):
        def update(_, carry):
            state, more = algorithm.step(carry[0], task)
            return state, add_metrics(carry[1], more)

        return jax.lax.fori_loop(0, num_updates, update, (state, metrics))

    options = compiler_options()
    return jax.jit(
        updates, static_argnums=0, donate_argnums=1, compiler_options=options
    )


def memory_needed(algorithm: Algorithm[State], state: State, task: Any) -> Memory:
    """Returns what a device needs for an update, as the compiled program has it."""
    metrics = no_metrics(algorithm, state, task)
    arguments = algorithm, state, task, jnp.int32(1), metrics
    return memory_of(updates_program().lower(*arguments).compile())


def add_metrics(pooled: PooledMetrics, more: Metrics) -> PooledMetrics:
    """Returns pooled metrics with those of one more update."""
    pairs = jax.tree.map(add_compensated, *pooled, more)
    return PooledMetrics(*jax.tree.transpose(jax.tree.structure(more), None, pairs))


def metric_shapes(
    algorithm: Algorithm[State], state: State, task: Any
) -> PooledMetrics:
    """Shapes of pooled metrics; of the state and task, too, only the shapes matter."""
    _, shapes = jax.eval_shape(algorithm.step, state, task)
    return PooledMetrics(shapes, shapes)


def no_metrics(algorithm: Algorithm[State], state: State, task: Any) -> PooledMetrics:
    """Metrics of no update: zeros, to which `updates_program` adds."""
    shapes = metric_shapes(algorithm, state, task)
    like: Any = state
    device = like.step.sharding if like.step.committed else None
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=device), shapes)


def diverged(state: Any, metrics: Metrics | None = None) -> np.ndarray:
    """Bool `[]`, or `[N]` of a population: whether a parameter or loss is not finite."""
    found = to_host(not_finite(state))
    for name, mean in (metrics or {}).items():
        if name == "loss" or name.endswith("_loss"):
            found = found | ~np.isfinite(to_host(mean.total))
    return found


def not_finite(state: Any) -> jax.Array:
    """Of the parameters, within a program; False of a state that has none."""
    params = getattr(state, "params", ())
    return _not_finite(params, state.step, _in_parts(params))


@functools.partial(jax.jit, static_argnums=2)
def _not_finite(params: Any, step: jax.Array, in_parts: bool) -> jax.Array:
    leaves = [leaf.reshape(*step.shape, -1) for leaf in jax.tree.leaves(params)]
    if not leaves:
        return jnp.zeros(step.shape, bool)
    if in_parts:  # no device is to have them whole
        axes = [tuple(range(step.ndim, x.ndim)) for x in jax.tree.leaves(params)]
        pairs = zip(jax.tree.leaves(params), axes, strict=True)
        return ~jnp.stack([jnp.isfinite(x).all(axis) for x, axis in pairs]).all(0)
    # One reduction compiles in a third of the time of one for each leaf.
    return ~jnp.isfinite(jnp.concatenate(leaves, axis=-1)).all(-1)


def _in_parts(params: Any) -> bool:
    """Returns whether arrays lie in parts on several devices; False within a program."""
    arrays = [x for x in jax.tree.leaves(params) if not isinstance(x, jax.core.Tracer)]
    return not all(getattr(x, "is_fully_replicated", True) for x in arrays)


@jax.jit
def copied(tree: Any) -> Any:
    """Copies of all arrays, whose memory may be overwritten."""
    return jax.tree.map(jnp.copy, tree)


def updates_taken(state: Any) -> int:
    """Updates taken; members of a population have taken equally many."""
    return int(np.max(to_host(state.step)))


def _check(num_updates, log_every, evaluate, evaluate_every, evaluation_key):
    whole = isinstance(num_updates, int | np.integer) and num_updates >= 0
    if not whole or isinstance(num_updates, bool):
        raise ValueError(
            f"num_updates must be a whole number, not negative, got {num_updates!r}. Use "
            f"int(...)."
        )
    for name, value in (("log_every", log_every), ("evaluate_every", evaluate_every)):
        if value is not None and value < 1:
            raise ValueError(
                f"{name} must be a positive number of updates, got {value}. Use 1 or "
                f"more, or None for once, at the end."
            )
    if evaluate_every is not None and (log_every is None or evaluate_every % log_every):
        raise ValueError(
            f"evaluate_every must be a multiple of log_every, got {evaluate_every} and "
            f"{log_every}. Set log_every to a divisor of {evaluate_every}."
        )
    if evaluate is not None and evaluation_key is None:
        raise ValueError(
            "evaluate needs random numbers of its own, got evaluation_key=None. Pass "
            "evaluation_key=jax.random.key(...), split from the run's key."
        )
