import counter
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counter import COUNTER, start

from rljax.base import Algorithm, Mean
from rljax.training.loop import PooledMetrics, train
from rljax.training.populations import population

TASK = 1.0


def test_it_takes_the_updates_asked_for_and_leaves_the_given_state_alone():
    state = start()
    after = train(COUNTER, state, TASK, 5)
    assert int(after.step) == 5
    assert int(state.step) == 0
    assert float(train(COUNTER, after, TASK, 2).total) > float(after.total)


def test_reports_come_at_multiples_of_log_every_and_at_the_end():
    reports = []
    state = train(
        COUNTER, start(), TASK, 3, on_log=lambda _, r: reports.append(r), log_every=4
    )
    train(COUNTER, state, TASK, 7, on_log=lambda _, r: reports.append(r), log_every=4)
    assert [r.step for r in reports] == [3, 4, 8, 10]


def test_metrics_pool_exactly_over_a_chunk():
    reports = []
    train(COUNTER, start(), TASK, 5, on_log=lambda _, r: reports.append(r))
    (report,) = reports
    np.testing.assert_allclose(report.metrics["step_taken"], 2.0)
    np.testing.assert_allclose(report.metrics["even_steps"], (0 + 2 + 4) / 3)
    assert np.isnan(report.metrics["never"])


def test_metrics_pool_beyond_the_last_whole_float32():
    before = Mean(jnp.float32(2**24), jnp.float32(2**24))
    zero = Mean(jnp.float32(0), jnp.float32(0))
    algorithm = Algorithm(
        COUNTER.init,
        lambda s, t: (
            COUNTER.step(s, t)[0],
            {"one": Mean.of(jnp.ones(1, jnp.float32))},
        ),
    )
    pooled = PooledMetrics({"one": before}, {"one": zero})
    seen = []
    train(
        algorithm, start(), TASK, 2002, metrics=pooled, log_every=2001,
        pause_every=0.0, on_pause=lambda _, m: seen.append(jax.device_get(m.sums["one"])),
    )  # fmt: skip
    most = max(float(mean.weight) for mean in seen)
    assert most == max(float(mean.total) for mean in seen) == 2**24 + 2000


def test_an_infinite_metric_stays_infinite():
    infinite = {"one": Mean(jnp.float32(jnp.inf), jnp.float32(1))}
    algorithm = Algorithm(COUNTER.init, lambda s, t: (COUNTER.step(s, t)[0], infinite))
    reports = []
    train(algorithm, start(), TASK, 3, on_log=lambda _, r: reports.append(r))
    assert reports[0].metrics["one"] == np.inf


def test_more_updates_than_an_int32_counts_are_refused():
    with pytest.raises(
        ValueError, match="up to 2\\*\\*31 - 1; got num_updates=2,147,48"
    ):
        train(COUNTER, start(), TASK, 2**31)


def test_evaluations_come_first_at_multiples_and_last_with_keys_of_their_own():
    seen = []

    def evaluate(state, key):
        return {"draw": jax.random.uniform(key), "step": state.step}

    def on_log(state, report):
        if report.evaluation:
            seen.append((report.step, float(report.evaluation["draw"])))

    def run(state, updates):
        return train(
            COUNTER, state, TASK, updates, log_every=2, on_log=on_log,
            evaluate=evaluate, evaluate_every=4, evaluation_key=jax.random.key(9),
        )  # fmt: skip

    run(start(), 10)
    straight, seen = seen, []
    assert [step for step, _ in straight] == [0, 4, 8, 10]
    assert len({draw for _, draw in straight}) == 4
    run(run(start(), 8), 2)
    assert seen == straight


def test_evaluating_changes_nothing_about_training():
    plain = train(COUNTER, start(), TASK, 6)
    evaluated = train(
        COUNTER, start(), TASK, 6, log_every=1, evaluate=lambda s, k: {"x": s.total},
        evaluate_every=2, evaluation_key=jax.random.key(9),
    )  # fmt: skip
    assert plain.total == evaluated.total


def test_a_report_that_returns_true_stops_the_run():
    state = train(
        COUNTER, start(), TASK, 100, log_every=10, on_log=lambda _, r: r.step >= 30
    )
    assert int(state.step) == 30


def test_chunks_of_all_lengths_and_a_second_call_compile_once():
    counter.TRACES.clear()
    state = train(COUNTER, start(), jnp.float32(2), 7, log_every=3)
    traced = len(counter.TRACES)
    train(COUNTER, state, jnp.float32(2), 11, log_every=5)
    assert traced <= 2  # once for the shapes of the metrics, once for the loop
    assert len(counter.TRACES) == traced


def test_pauses_change_no_bit_and_a_run_goes_on_from_one():
    reports, pauses = [], []
    on_log = lambda _, report: reports.append(report)  # noqa: E731

    def on_pause(state, metrics):
        pauses.append(jax.tree.map(jnp.copy, (state, metrics)))
        return len(pauses) == 3

    whole = train(COUNTER, start(), TASK, 7, on_log=on_log)
    some = {"on_log": on_log, "pause_every": 0.0}
    stopped = train(COUNTER, start(), TASK, 7, **some, on_pause=on_pause)
    state, metrics = pauses[-1]
    assert int(state.step) == int(stopped.step) == 3
    after = train(COUNTER, state, TASK, 4, **some, metrics=metrics)
    assert after.total == whole.total
    (one, other) = (report.metrics for report in reports)
    np.testing.assert_equal(one, other)


def test_a_population_reports_each_member():
    many = population(COUNTER)
    keys = jax.random.split(jax.random.key(0), 3)
    state = many.init(keys, jnp.arange(3.0), TASK)
    reports = []
    state = train(many, state, TASK, 4, on_log=lambda _, r: reports.append(r))
    assert state.step.tolist() == [4, 4, 4]
    assert reports[0].metrics["step_taken"].tolist() == [1.5, 1.5, 1.5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_updates": -1}, "whole number, not negative, got -1"),
        ({"num_updates": 2.5}, r"whole number, .*got 2.5. Use int"),
        ({"log_every": 0}, "log_every must be a positive number of updates, got 0"),
        ({"log_every": 2, "evaluate_every": 3}, "multiple of log_every, got 3 and 2"),
        ({"evaluate": lambda s, k: {}}, "evaluation_key=None"),
    ],
)
def test_a_bad_argument_is_refused(given, message):
    arguments = {"num_updates": 1} | given
    with pytest.raises(ValueError, match=message):
        train(COUNTER, start(), TASK, **arguments)
