import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

from rljax.algorithms.distributions import Categorical
from rljax.envs import CartPole, CartPoleParams
from rljax.envs.spaces import Box
from rljax.envs.vector import VectorEnv
from rljax.rollouts.rollout import episode, evaluate, record, unroll

ENV, PARAMS = CartPole(), CartPoleParams(max_steps=13)


def balance(observation, key):
    """Keeps the pole up: a linear policy."""
    del key
    return (observation @ jnp.array([0.1, 0.5, 1.0, 1.0]) > 0).astype(jnp.int32)


def at_random(observation, key):
    return jax.random.randint(key, observation.shape[:1], 0, 2)


def rollout(env=ENV, params=PARAMS, act=at_random, num_envs=5, num_steps=60):
    envs = VectorEnv(env).reset(jax.random.key(0), params, num_envs)
    run = jax.jit(
        lambda key, envs: unroll(
            key, env, params, envs, lambda o, k: (act(o, k), o[:, 0]), num_steps
        )
    )
    return run(jax.random.key(1), envs)


def test_it_equals_a_plain_loop_that_resets_by_hand():
    """Observations follow one another within an episode; a new one starts afresh."""
    _, steps, _ = rollout()
    step = jax.jit(ENV.step)
    done = steps.terminated | steps.truncated
    assert done.any()
    for index in range(5):
        state, time = None, 0
        for t in range(60):
            if state is None:
                assert np.abs(steps.observation[t, index]).max() <= 0.05
                x = steps.observation[t, index]
                state, time = _state(x), 0
            np.testing.assert_allclose(
                steps.observation[t, index], _observe(state), atol=1e-5
            )
            state, seen = step(jax.random.key(0), state, steps.action[t, index], PARAMS)
            time += 1
            np.testing.assert_allclose(
                steps.next_observation[t, index], seen.observation, atol=1e-5
            )
            assert bool(seen.terminated) == bool(steps.terminated[t, index])
            assert bool(steps.truncated[t, index]) == (time == 13)
            if done[t, index]:
                state = None


def test_the_final_observation_is_kept_and_the_next_one_is_a_start():
    _, steps, _ = rollout(act=balance)
    ended = np.argwhere(np.asarray(steps.truncated)[:-1])
    assert len(ended) >= 5 * 3
    for t, index in ended:
        final, first = steps.next_observation[t, index], steps.observation[t + 1, index]
        assert np.abs(final - first).max() > 1e-3
    going = ~np.asarray(steps.terminated | steps.truncated)[:-1]
    np.testing.assert_array_equal(
        np.asarray(steps.next_observation)[:-1][going],
        np.asarray(steps.observation)[1:][going],
    )


def test_episode_statistics_count_every_ended_episode_once():
    envs, steps, metrics = rollout()
    done = np.asarray(steps.terminated | steps.truncated)
    lengths = []
    running = np.zeros(5, int)
    for t in range(60):
        running += 1
        lengths += running[done[t]].tolist()
        running[done[t]] = 0
    assert metrics["episode_return"].weight == len(lengths)
    np.testing.assert_allclose(metrics["episode_length"].value, np.mean(lengths))
    np.testing.assert_allclose(metrics["episode_return"].value, np.mean(lengths))
    np.testing.assert_array_equal(envs.episode_length, running)


def test_a_huge_reward_is_not_felt_in_the_episodes_after_it():
    @dataclasses.dataclass(frozen=True)
    class PaysTheAction(probes.Probe):
        length = 2

        def reward(self, state, action):
            return action

        def action_space(self, params):
            return Box(0.0, 1e9, ())

    rewards = jnp.float32([1e8, 1e8, 0.1, 0.2, 0.4, 0.8, 0.25])[:, None]
    envs = VectorEnv(PaysTheAction()).reset(jax.random.key(0), None, 1)
    act = lambda observation, noise: (noise, None)  # noqa: E731
    envs, _, metrics = unroll(
        jax.random.key(1), PaysTheAction(), None, envs, act, 7, act_noise=rewards
    )
    assert metrics["episode_return"].total == np.float32(
        2e8
    )  # 1.5 is below its last bit
    assert envs.episode_return[0] == 0.25
    assert envs.episode_length[0] == 1
    last = jax.jit(
        lambda rewards: (
            unroll(
                jax.random.key(1),
                PaysTheAction(),
                None,
                envs,
                act,
                2,
                act_noise=rewards,
            )[2]["episode_return"].total
        )
    )
    assert last(rewards[-2:]) == np.float32(0.25) + np.float32(0.8)


def test_two_rollouts_join_into_one():
    first, a, _ = rollout(act=balance, num_steps=20)
    _, b, _ = jax.jit(
        lambda key, envs: unroll(
            key, ENV, PARAMS, envs, lambda o, k: (balance(o, k), 0.0), 1
        )
    )(jax.random.key(7), first)
    np.testing.assert_array_equal(b.observation[0], first.observation)
    going = ~np.asarray(a.terminated | a.truncated)[-1]
    np.testing.assert_array_equal(
        a.next_observation[-1][going], b.observation[0][going]
    )


def test_what_the_policy_adds_is_stored_beside_its_step():
    _, steps, _ = rollout()
    np.testing.assert_array_equal(steps.extras, steps.observation[..., 0])


def test_environments_without_noise_reset_from_one_key_a_lane():
    env = probes.RewardFromObservation()
    envs = VectorEnv(env).reset(jax.random.key(0), None, 4096)
    assert 0.4 < float((envs.observation > 0).mean()) < 0.6
    few = VectorEnv(env).reset(jax.random.key(0), None, 7)
    np.testing.assert_array_equal(few.observation, envs.observation[:7])


def play(act, **options):
    run = jax.jit(functools.partial(evaluate, env=ENV, act=act, **options))
    return run(jax.random.key(3), params=CartPoleParams())


def test_evaluation_plays_every_episode_to_its_end():
    episodes = play(balance, num_episodes=50, max_steps=500)
    assert episodes.finished.all()
    assert episodes.lengths.tolist() == [500] * 50
    np.testing.assert_array_equal(episodes.returns, episodes.lengths)


@pytest.mark.parametrize("shape", [(), (1,), (7, 2)])
def test_an_action_without_a_row_for_each_environment_is_refused(shape):
    def act(observation, key):
        del observation, key
        return jnp.zeros(shape, jnp.int32)

    for run in (evaluate, record):
        with pytest.raises(ValueError, match=r"row for each of 4 .* jax\.vmap\(policy"):
            run(jax.random.key(0), ENV, PARAMS, act, num_episodes=4, max_steps=13)
    with pytest.raises(ValueError, match="row for each of 5 environments"):
        rollout(act=act)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda o: Categorical(o[:, :2]), "not its distribution"),
        (lambda o: None, "actions must be of Discrete"),
        (lambda o: o[:, 0], r"got float32. Convert .*int32"),
        (lambda o: o[2] > 0, r"shape \(4,\), got shape|got bool"),
        (lambda o: jnp.zeros((4, 1), jnp.int32), r"got shape \(4, 1\)"),
    ],
    ids=["distribution", "none", "floats", "of one observation", "a column"],
)
def test_what_is_no_action_is_refused(act, words):
    with pytest.raises(ValueError, match=words):
        evaluate(
            jax.random.key(0), CartPole(), CartPoleParams(),
            lambda o, key: act(o), num_episodes=4, max_steps=9,
        )  # fmt: skip


def test_a_discount_above_1_is_refused(key):
    act = lambda o, k: jnp.zeros(len(o), jnp.int32)  # noqa: E731
    with pytest.raises(ValueError, match=r"gamma must lie in \[0, 1\], got 99"):
        evaluate(
            key, CartPole(), CartPoleParams(), act, num_episodes=4, max_steps=9,
            gamma=99,
        )  # fmt: skip


def test_short_episodes_count_once_beside_long_ones():
    """The mean over one episode a index, not over the steps that were taken."""
    episodes = play(at_random, num_episodes=2000, max_steps=500)
    lengths = np.asarray(episodes.lengths)
    # CartPole under a random policy: 22.2 steps on average, standard deviation 11.8.
    assert abs(lengths.mean() - 22.2) < 5 * 11.8 / np.sqrt(2000)
    assert lengths.max() > 2 * lengths.mean()


def test_episodes_not_ended_by_the_bound_are_reported():
    episodes = play(balance, num_episodes=20, max_steps=100)
    assert not episodes.finished.any()
    assert episodes.lengths.tolist() == [100] * 20


def test_evaluation_of_an_environment_that_pays_after_its_end_counts_nothing_more():
    @dataclasses.dataclass(frozen=True)
    class Unequal(probes.Probe):
        """Environments whose cue is positive end after one step, the others after three."""

        def flags(self, done):
            return done, jnp.bool_(False)

        def step(self, key, state, action, params):
            state, timestep = super().step(key, state, action, params)
            ended = (state.cue > 0) | (state.time >= 3)
            return state, timestep._replace(terminated=ended)

        def reward(self, state, action):
            return 1.0

    run = functools.partial(
        evaluate,
        env=Unequal(),
        params=None,
        act=lambda o, k: jnp.zeros(100, jnp.int32),
        num_episodes=100,
        max_steps=10,
    )
    episodes = jax.jit(run)(jax.random.key(0))
    assert set(episodes.lengths.tolist()) == {1, 3}
    np.testing.assert_array_equal(episodes.returns, episodes.lengths)


def test_a_record_keeps_every_state_and_stands_still_after_the_end():
    run = functools.partial(
        record, env=ENV, params=PARAMS, act=at_random, num_episodes=6, max_steps=20
    )
    kept = jax.jit(run)(jax.random.key(5))
    lengths = np.asarray(kept.valid.sum(0))
    assert lengths.max() == 13  # the clock
    assert lengths.min() < 13  # a fall
    step = jax.jit(ENV.step)
    for index in range(6):
        one = episode(kept, index)
        assert len(one.reward) == lengths[index]
        assert one.state.time.tolist() == list(range(lengths[index] + 1))
        assert one.terminated[-1] | one.truncated[-1]
        assert not (one.terminated | one.truncated)[:-1].any()
        for t, action in enumerate(one.action):
            before = jax.tree.map(lambda x, t=t: x[t], one.state)
            after, seen = step(jax.random.key(0), before, action, PARAMS)
            np.testing.assert_allclose(one.state.theta[t + 1], after.theta, atol=1e-6)
            np.testing.assert_allclose(
                one.observation[t + 1], seen.observation, atol=1e-6
            )
    np.testing.assert_array_equal(kept.reward.sum(0), lengths)
    after_the_end = np.asarray(kept.observation)[-1]
    for index in range(6):
        np.testing.assert_array_equal(
            after_the_end[index], kept.observation[lengths[index], index]
        )


def test_a_lane_that_was_not_recorded_is_refused():
    run = functools.partial(
        record, env=ENV, params=PARAMS, act=at_random, num_episodes=2, max_steps=3
    )
    kept = jax.jit(run)(jax.random.key(5))
    with pytest.raises(ValueError, match=r"one of the 2 recorded, got 2\."):
        episode(kept, 2)


@pytest.mark.parametrize("play_some", [evaluate, record])
def test_no_episodes_are_refused(play_some):
    with pytest.raises(ValueError, match=f"{play_some.__name__} plays at least one"):
        play_some(
            jax.random.key(0), ENV, PARAMS, at_random, num_episodes=0, max_steps=3
        )


@pytest.mark.parametrize("key", [0, 1])
def test_different_keys_give_different_starts(key):
    envs = VectorEnv(ENV).reset(jax.random.key(key), PARAMS, 100)
    assert len(np.unique(envs.observation)) > 390


def _state(x):
    state, _ = ENV.reset(jax.random.key(0), PARAMS)
    return state.replace(x=x[0], x_dot=x[1], theta=x[2], theta_dot=x[3])


def _observe(state):
    return np.array([state.x, state.x_dot, state.theta, state.theta_dot])
