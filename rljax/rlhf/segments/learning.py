"""Reinforcement learning from preferences: nobody tells the learner the reward.

Christiano et al. (2017), https://arxiv.org/abs/1706.03741. A round, one step of the
algorithm: play the policy, and chance beside it; let a simulated person compare pairs of
segments; fit a reward model to all comparisons so far; train a policy on it by PPO.

The true reward reaches the learner in no other way than by which of two the person
prefers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax.algorithms import ppo
from rljax.algorithms.ppo import PPOConfig, PPOHyperparams, PPOState
from rljax.base import Algorithm, Mean, Metrics, Transition
from rljax.envs.learned_reward import LearnedReward, with_reward
from rljax.envs.spaces import sample_action
from rljax.envs.variation import check_params, one_of
from rljax.envs.vector import VectorEnv, choose
from rljax.numerics.validation import (
    check_positive_integers,
    check_ranges,
    updates_within,
)
from rljax.rlhf.segments.comparisons import (
    Segment,
    SegmentPairs,
    add_pairs,
    cut_segments,
    draw_pairs,
    no_pairs,
    prefers_first,
)
from rljax.rlhf.segments.fitting import fit_reward
from rljax.rollouts.rollout import unroll


def true_reward(steps: Transition) -> jax.Array:
    """`[T, B]`: a person who judges by the environment's reward."""
    return steps.reward


@dataclasses.dataclass(frozen=True)
class PreferenceNetworks:
    """What is learned.

    Attributes:
        policy: an actor-critic.
        reward: a `RewardNetwork`, or a module with its collections and arguments.
    """

    policy: Any
    reward: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Everything that fixes an array's shape or the program's structure. Static.

    Raises:
        ValueError: a size is not positive, or numbers do not fit one another.
    """

    num_rounds: int = 5
    """Rounds over which the comparisons are spread evenly."""
    max_comparisons: int = 400
    """Room for comparisons: the most that there can be."""
    segment_length: int = 10
    """Steps of a segment."""
    collect_envs: int = 64
    """Environments in which segments are collected, from fresh starts."""
    collect_steps: int = 50
    """Steps of each."""
    random_share: float = 0.5
    """Share of them that act at random, so that the policy is compared with chance."""
    fit_steps: int = 400
    """Gradient steps of the reward model in a round."""
    fit_batch: int = 64
    """Comparisons in a gradient step."""
    policy_updates: int = 40
    """PPO's updates in a round."""
    fresh_policy: bool = True
    """Train a new policy in each round, as one that was misled may explore no more; the
    learned reward says whether it takes the old one's place."""
    centred: bool = True
    """Shift rewards to a mean of 0. Not where episodes end early: there it matters."""
    utility: Callable[[Transition], jax.Array] = true_reward
    """What the person judges steps by: of transitions `[T, B, ...]`, `[T, B]`."""
    agent: PPOConfig = dataclasses.field(
        default_factory=lambda: PPOConfig(num_envs=16, num_steps=64, num_epochs=5)
    )
    """PPO's sizes."""

    def __post_init__(self):
        check_positive_integers(
            self,
            *("num_rounds", "max_comparisons", "segment_length", "collect_envs"),
            *("collect_steps", "fit_steps", "fit_batch", "policy_updates"),
        )
        if not 0 <= self.random_share <= 1:
            raise ValueError(
                f"random_share must lie in [0, 1], got {self.random_share}. Choose a value "
                f"in that range."
            )
        num_segments = self.collect_steps // self.segment_length * self.collect_envs
        if num_segments < 2:
            raise ValueError(
                f"a comparison needs two segments, got {num_segments} of "
                f"{self.segment_length} steps out of {self.collect_envs} environments x "
                f"{self.collect_steps} steps. Raise collect_steps or collect_envs."
            )

    @property
    def batch_size(self) -> int:
        """Environment steps in one round."""
        learned_from = self.policy_updates * self.agent.batch_size
        return self.collect_steps * self.collect_envs + learned_from

    def updates(self, total_steps: int) -> int:
        """The largest number of rounds within a budget of environment steps."""
        return updates_within(total_steps, self.batch_size)


class PreferenceHyperparams(struct.PyTreeNode):
    """Everything that may be traced: sweep any of these with `jax.vmap`."""

    num_comparisons: int = 400
    """Comparisons, all rounds together."""
    temperature: float = 1.0
    """The person's: a return better by this is preferred in 73 cases of 100."""
    reward_learning_rate: float = 3e-3
    """Adam's step size for the reward model, as a fit begins."""
    weight_decay: float = 0.0
    """Of the reward model's weights, apart from the gradient."""
    agent: PPOHyperparams = dataclasses.field(
        default_factory=lambda: PPOHyperparams(
            learning_rate=3e-3, decay_updates=40.0, ent_coef=0.03
        )
    )
    """PPO's."""


class PreferenceState(struct.PyTreeNode):
    """All that changes in a run: checkpoint this and nothing else."""

    key: jax.Array
    step: jax.Array  # int32, rounds so far
    agent: PPOState  # the policy, and the environments that it learns in
    reward: Any  # the reward model's collections
    pairs: SegmentPairs
    hyperparams: PreferenceHyperparams

    @property
    def params(self) -> Any:
        """All weights, which must stay finite."""
        return self.agent.params, self.reward


def check_hyperparams(hyperparams: PreferenceHyperparams) -> None:
    """Raises a ValueError for a value out of its range; values may be arrays."""
    largest = float(jnp.finfo(jnp.float32).max)
    names = ("temperature", "reward_learning_rate", "weight_decay")
    counts = {"num_comparisons": (0.0, 2.0**24)}
    check_ranges(hyperparams, counts | {name: (0.0, largest) for name in names})
    ppo.check_hyperparams(hyperparams.agent)


@functools.cache
def preference_learning(
    env: Any, networks: PreferenceNetworks, config: PreferenceConfig
) -> Algorithm[PreferenceState]:
    """Makes the learner for one environment, two networks and one set of sizes. Cached.

    Args:
        env: the environment; its reward is seen by the person only.
        networks: of the policy and of the reward.
        config: sizes.

    Returns:
        An algorithm whose hyperparameters are `PreferenceHyperparams` and whose task is
        the environment's parameters, or a `ParamsPerEnv` of them. Its metrics:
        `comparisons` so far; `segment_return`, what the person sees in the segments of
        this round; `reward_loss` and `reward_accuracy` over all comparisons; and PPO's,
        of which `episode_return` is of the learned reward; with `fresh_policy`, whether
        the new policy took the old one's place, `policy_replaced`.
    """
    learned = LearnedReward(env, networks.reward)
    learner = ppo.ppo(learned, networks.policy, config.agent)
    per_round = -(-config.max_comparisons // config.num_rounds)

    def init(
        key: jax.Array, hyperparams: PreferenceHyperparams, task: Any
    ) -> PreferenceState:
        key, agent_key, reward_key, one_key = jax.random.split(key, 4)
        hyperparams = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hyperparams)
        one = _one_step(env, task, one_key)
        reward = networks.reward.init(reward_key, one.observation, one.action)
        start = with_reward(task, reward)
        length = config.segment_length
        like = jax.tree.map(lambda x: jnp.stack([x] * length)[None], one)
        return PreferenceState(
            key=key,
            step=jnp.int32(0),
            agent=learner.init(agent_key, hyperparams.agent, start),
            reward=reward,
            pairs=no_pairs(like, config.max_comparisons),
            hyperparams=hyperparams,
        )

    def step(state: PreferenceState, task: Any) -> tuple[PreferenceState, Metrics]:
        """One round: compare, fit, train."""
        key, compare_key, fit_key, agent_key = jax.random.split(state.key, 4)
        pairs, compared = compare(state, task, compare_key)
        reward, fitted = fit(state, pairs, fit_key)
        agent, trained = train_agent(state, with_reward(task, reward), agent_key)
        state = state.replace(
            key=key, step=state.step + 1, agent=agent, reward=reward, pairs=pairs
        )
        return state, compared | fitted | trained

    def compare(
        state: PreferenceState, task: Any, key: jax.Array
    ) -> tuple[SegmentPairs, Metrics]:
        """Collects segments and lets the person compare as many as are due."""
        steps_key, pairs_key, person_key = jax.random.split(key, 3)
        steps = collect(state, task, steps_key)
        length = config.segment_length
        segments, returns = cut_segments(steps, config.utility(steps), length)
        drawn = draw_pairs(pairs_key, len(returns), per_round)
        numbers = state.hyperparams
        first = prefers_first(person_key, returns[drawn], numbers.temperature)
        rounds = jnp.minimum(state.step + jnp.arange(2), config.num_rounds)
        due = jnp.floor(numbers.num_comparisons * rounds / config.num_rounds)
        shown = jax.tree.map(lambda x: x[drawn], segments)
        num_new = (due[1] - due[0]).astype(jnp.int32)
        pairs = add_pairs(state.pairs, shown, first, num_new)
        return pairs, {
            "comparisons": Mean.of(pairs.count.astype(jnp.float32)),
            "segment_return": Mean.of(returns),
        }

    def collect(state: PreferenceState, task: Any, key: jax.Array) -> Transition:
        """Plays from fresh starts, at random in some environments: `[T, B]`."""
        start_key, steps_key = jax.random.split(key)
        num_envs = config.collect_envs
        index = jnp.arange(num_envs, dtype=jnp.int32)
        sample = functools.partial(sample_action, env.action_space(one_of(task)))

        def act(observation, key):
            policy_key, random_key = jax.random.split(key)
            action = ppo.act(networks.policy, state.agent, observation, policy_key)
            keys = jax.random.split(random_key, num_envs)
            at_random = jax.vmap(sample)(keys, observation)
            mask = index < config.random_share * num_envs
            return choose(mask, at_random, action), None

        envs = VectorEnv(env).reset(start_key, task, num_envs)
        return unroll(steps_key, env, task, envs, act, config.collect_steps)[1]

    def fit(
        state: PreferenceState, pairs: SegmentPairs, key: jax.Array
    ) -> tuple[Any, Metrics]:
        """Fits a new reward model to all comparisons."""
        start_key, key = jax.random.split(key)
        one = jax.tree.map(lambda x: x[0, 0, 0], pairs.segments)
        start = networks.reward.init(start_key, one.observation, one.action)
        return fit_reward(
            key,
            networks.reward,
            start,
            pairs,
            num_steps=config.fit_steps,
            batch_size=config.fit_batch,
            learning_rate=state.hyperparams.reward_learning_rate,
            weight_decay=state.hyperparams.weight_decay,
            centred=config.centred,
        )

    def train_agent(
        state: PreferenceState, task: Any, key: jax.Array
    ) -> tuple[PPOState, Metrics]:
        """PPO's updates on the learned reward, and their metrics pooled."""
        agent, (start_key, worth_key) = state.agent, jax.random.split(key)
        if config.fresh_policy:
            agent = learner.init(start_key, state.hyperparams.agent, task)
        _, shapes = jax.eval_shape(learner.step, agent, task)
        none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def update(_, carry):
            agent, metrics = learner.step(carry[0], task)
            return agent, jax.tree.map(jnp.add, carry[1], metrics)

        updates = config.policy_updates
        agent, metrics = jax.lax.fori_loop(0, updates, update, (agent, none))
        if config.fresh_policy:
            # One in some twenty does nothing but heat, or never does, and stays so.
            before, after = worths((state.agent, agent), task, worth_key)
            both = [(x.params, x.opt_state, x.normalizer) for x in (agent, state.agent)]
            params, opt_state, normalizer = jax.tree.map(
                lambda *x: jnp.where(after > before, *x), *both
            )
            agent = agent.replace(
                params=params, opt_state=opt_state, normalizer=normalizer
            )
            metrics["policy_replaced"] = Mean.of(jnp.float32(after > before))
        return agent, metrics

    def worths(agents: tuple[PPOState, ...], task: Any, key: jax.Array) -> jax.Array:
        """Learned returns of greedy policies, up to `collect_steps`, from fresh starts."""
        start_key, steps_key = jax.random.split(key)
        envs = VectorEnv(learned).reset(start_key, task, config.collect_envs)

        def worth(policy: tuple[Any, Any]) -> jax.Array:
            params, normalizer = policy
            agent = agents[0].replace(params=params, normalizer=normalizer)

            def act(observation, key):
                act = functools.partial(ppo.act, networks.policy, agent, greedy=True)
                return act(observation, key), None

            # The same starts and random numbers for all.
            key, length = jax.random.clone(steps_key), config.collect_steps
            steps = unroll(key, learned, task, envs, act, length)[1]
            return cut_segments(steps, steps.reward, length).returns.mean()

        policies = [(agent.params, agent.normalizer) for agent in agents]
        return jax.vmap(worth)(jax.tree.map(lambda *x: jnp.stack(x), *policies))

    def check(state: PreferenceState, task: Any) -> None:
        """What `train` calls before it compiles."""
        check_hyperparams(state.hyperparams)
        check_params(env, task)
        most = jnp.max(state.hyperparams.num_comparisons)
        if most > config.max_comparisons:
            raise ValueError(
                f"num_comparisons must be at most max_comparisons, got {most:g} and "
                f"{config.max_comparisons}. Raise max_comparisons."
            )

    return Algorithm(init, step, check)


def act(
    networks: PreferenceNetworks,
    state: PreferenceState,
    observation: Any,
    key: jax.Array,
    *,
    greedy: bool = False,
) -> Any:
    """Actions of the learned policy, for one observation or a batch; as `ppo.act`."""
    return ppo.act(networks.policy, state.agent, observation, key, greedy=greedy)


# Names by which sweeps find an algorithm's parts, with `act` and `check_hyperparams`.
Config, Hyperparams, make = (
    PreferenceConfig,
    PreferenceHyperparams,
    preference_learning,
)


def _one_step(env: Any, task: Any, key: jax.Array) -> Segment:
    """An observation and an action, for their shapes."""
    start_key, action_key = jax.random.split(key)
    observation = VectorEnv(env).reset(start_key, task, 1).observation
    one = jax.tree.map(lambda x: x[0], observation)
    action = sample_action(env.action_space(one_of(task)), action_key, one)
    return Segment(one, action, jnp.bool_(True))
