"""The training loop: compiled chunks of updates, and host work between them."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Algorithm, Metrics, State
from rljax.training.loggers import LogEntry, value_of


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
) -> State:
    """Takes `num_updates` updates, reporting between compiled chunks of them.

    One program runs chunks of every length, so how a run is cut into chunks, or
    stopped, saved and continued, changes no bit of its result.

    Args:
        algorithm: the learner, or a `population` of them.
        state: where to go on from; it stays valid.
        task: what the learner reads.
        num_updates: updates to take from here.
        log_every: report whenever `state.step` is a multiple of this, and at the end;
            by default at the end only.
        on_log: called with the state and a `LogEntry`; returning True stops the run. The
            state is only lent: the next chunk reuses its memory.
        evaluate: `(state, key) -> metrics`, pure; compiled here. Called before the
            first update of all, at multiples of `evaluate_every`, and at the end.
        evaluate_every: a multiple of `log_every`; by default at the end only.
        evaluation_key: seeds the evaluations, apart from training; each one's key is
            `fold_in(evaluation_key, state.step)`.

    Returns:
        The state after the last update taken.

    Raises:
        ValueError: a number of updates is negative, an interval not positive, or one
            does not divide the other; `evaluate` without a key.
    """
    _check(num_updates, log_every, evaluate, evaluate_every, evaluation_key)
    step = _step(state)
    last = step + num_updates
    seconds_compile = 0.0

    # The loop donates its buffers; a copy keeps the caller's state alive, and parts two
    # leaves that share a buffer, which cannot be donated twice.
    state = copied(state)
    if num_updates:
        chunk, seconds = compile_chunk(algorithm, state, task)
        seconds_compile += seconds
    if evaluate is not None and (num_updates or step == 0):
        evaluator, seconds = compiled(jitted(evaluate), state, evaluation_key)
        seconds_compile += seconds

    started = time.perf_counter()

    def report(metrics: Metrics, evaluations: dict[str, Any]) -> bool:
        if on_log is None:
            return False
        values = {name: value_of(mean) for name, mean in metrics.items()}
        now = time.perf_counter()
        evaluations = {name: np.asarray(x) for name, x in evaluations.items()}
        entry = LogEntry(step, values, evaluations, seconds_compile, now - started)
        return bool(on_log(state, entry))

    def evaluated() -> dict[str, jax.Array]:
        assert evaluation_key is not None
        return evaluator(state, jax.random.fold_in(evaluation_key, step))

    if step == 0 and evaluate is not None and report({}, evaluated()):
        return state
    while step < last:
        length = min(_until_multiple(step, log_every), last - step)
        state, metrics = chunk(state, task, jnp.int32(length))
        step += length
        jax.block_until_ready(state)
        due = evaluate is not None and (
            step == last or (evaluate_every is not None and step % evaluate_every == 0)
        )
        evaluations = evaluated() if due else {}
        if report(metrics, evaluations):
            break
    return state


def compile_chunk(algorithm: Algorithm[State], state: State, task: Any) -> Any:
    """The program `(state, task, num_updates) -> (state, metrics)`, and seconds.

    It takes a traced number of updates, and overwrites the state that it is given.
    """
    return compiled(_chunk, algorithm, state, task, jnp.int32(0))


def compiled(function: Any, *args: Any) -> tuple[Any, float]:
    """Compiles a jitted function for these arguments; also says how long it took.

    Static arguments are bound: call the result with the others only. The newest
    programs are kept, and take no time.
    """
    leaves, structure = jax.tree.flatten(args)
    about = tuple(_signature(leaf) for leaf in leaves)
    key = function, structure, about
    started = time.perf_counter()
    if key not in _programs:
        if len(_programs) >= _MOST_PROGRAMS:
            _programs.pop(next(iter(_programs)))
        _programs[key] = function.lower(*args).compile()
    return _programs[key], time.perf_counter() - started


_MOST_PROGRAMS = 32
_programs: dict[Any, Any] = {}


def _signature(leaf: Any) -> Any:
    """What of an argument a program depends on: everything of a static one."""
    if not isinstance(leaf, jax.Array):
        return type(leaf), leaf if callable(leaf) else np.shape(leaf)
    weak = getattr(leaf, "weak_type", False)  # keys have none
    return leaf.shape, leaf.dtype, weak, leaf.sharding


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _chunk(
    algorithm: Algorithm[State], state: State, task: Any, num_updates: jax.Array
) -> tuple[State, Metrics]:
    """Takes `num_updates` updates, a traced number, and pools their metrics."""

    def update(_, carry):
        state, pooled = carry
        state, metrics = algorithm.step(state, task)
        return state, jax.tree.map(jnp.add, pooled, metrics)

    _, shapes = jax.eval_shape(algorithm.step, state, task)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, num_updates, update, (state, nothing))


@jax.jit
def copied(tree: Any) -> Any:
    """The same arrays, each with memory of its own, which may be overwritten."""
    return jax.tree.map(jnp.copy, tree)


@functools.lru_cache(maxsize=32)
def jitted(function: Callable[..., Any]) -> Any:
    """`jax.jit`, the same object for the same function, so that nothing compiles twice."""
    return jax.jit(function)


def _step(state: Any) -> int:
    """Updates taken; members of a population have taken equally many."""
    return int(np.max(np.asarray(state.step)))


def _until_multiple(step: int, interval: int | None) -> int:
    return (1 << 30) if interval is None else interval - step % interval


def _check(num_updates, log_every, evaluate, evaluate_every, evaluation_key):
    if num_updates < 0:
        raise ValueError(f"num_updates must not be negative, got {num_updates}.")
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
