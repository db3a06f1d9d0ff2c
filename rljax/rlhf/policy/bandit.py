"""RLHF as an environment: a prompt is drawn, a whole completion is the one action.

| Aspect             | control                                   | `PromptBandit`                |
|--------------------|-------------------------------------------|-------------------------------|
| state transition   | dynamics p(s' given s, a)                 | none: the completion does not |
|                    |                                           | define the next prompt        |
| initial state      | `reset` draws the plant's state           | draws a prompt                |
| action             | one push, heater on or off                | a whole completion: tokens    |
| reward             | r(s, a), part of the environment          | r_theta(x, y), learned        |
| granularity,       | per step, T > 1, gamma < 1                | per completion, T = 1, always |
| horizon            |                                           | terminated, gamma = 1         |
| objective          | E[sum gamma^t r]                          | E[r_theta(x, y)] -            |
|                    |                                           | beta KL(pi and pi_ref, at x)  |

`policy_optimization` takes the same reward functions; it samples and learns from tokens,
which an environment of whole completions does not see.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import TimeStep
from rljax.envs.spaces import Box, Discrete
from rljax.rlhf.generation import Generated
from rljax.rlhf.policy.rewards.token_rewards import Reward
from rljax.rlhf.policy.samples import join_prompts


class Prompt(struct.PyTreeNode):
    """A prompt: the state, which the policy observes.

    Attributes:
        ids: `[P]` int32, padded on the left.
        length: int32, its tokens.
        index: int32, which one of the set it is.
    """

    ids: jax.Array
    length: jax.Array
    index: jax.Array


class Completion(struct.PyTreeNode):
    """A completion: the action.

    Attributes:
        ids: `[T]` int32; what stands after its end does not matter.
        length: int32, its tokens, at least 1.
    """

    ids: Any
    length: Any


class BanditParams(struct.PyTreeNode):
    """What the prompts are drawn from, and what the reward reads.

    Attributes:
        prompts: `[M, P]` int32, padded on the left.
        prompt_lengths: `[M]` int32.
        reward: any pytree, such as the variables of a reward model.
    """

    prompts: jax.Array
    prompt_lengths: jax.Array
    reward: Any


@dataclasses.dataclass(frozen=True)
class PromptBandit:
    """An `Environment` whose episodes last one step.

    Attributes:
        reward: a reward of tokens, such as of `rljax.rlhf.policy.rewards`.
        vocab_size: of the language.
        max_new_tokens: T, the most tokens of a completion.
        stop_ids: tokens that end a completion.
    """

    reward: Reward
    vocab_size: int
    max_new_tokens: int
    stop_ids: tuple[int, ...] = ()

    def reset(self, key: jax.Array, params: BanditParams) -> tuple[Prompt, Prompt]:
        """Draws a prompt, all of them alike; it is both the state and the observation."""
        index = jax.random.randint(key, (), 0, len(params.prompts), jnp.int32)
        prompt = Prompt(params.prompts[index], params.prompt_lengths[index], index)
        return prompt, prompt

    def step(
        self, key: jax.Array, state: Prompt, action: Completion, params: BanditParams
    ) -> tuple[Prompt, TimeStep]:
        """Rewards a completion, and ends the episode."""
        del key
        places = jnp.arange(self.max_new_tokens)
        ids = jnp.where(places < action.length, action.ids, 0)
        last = ids[jnp.maximum(action.length - 1, 0)]
        generated = Generated(
            ids=ids[None],
            lengths=action.length[None],
            log_probs=jnp.zeros(ids.shape, jnp.float32)[None],
            stopped=jnp.isin(last, jnp.array(self.stop_ids, jnp.int32))[None],
        )
        samples = join_prompts(
            state.ids[None],
            state.length[None],
            state.index[None],
            generated,
            self.vocab_size,
        )
        reward = self.reward(params.reward, samples)[0]
        timestep = TimeStep(
            observation=state,
            reward=reward.astype(jnp.float32),
            terminated=jnp.bool_(True),
            truncated=jnp.bool_(False),
        )
        return state, timestep

    def observation_space(self, params: BanditParams) -> Prompt:
        """Prompts, as a `Prompt` of spaces."""
        count, width = params.prompts.shape
        ids: Any = Box(0, self.vocab_size - 1, (width,), jnp.int32)
        length: Any = Box(1, width, (), jnp.int32)
        index: Any = Discrete(count)
        return Prompt(ids, length, index)

    def action_space(self, params: BanditParams) -> Completion:
        """Completions, as a `Completion` of spaces."""
        del params
        size = self.max_new_tokens
        ids: Any = Box(0, self.vocab_size - 1, (size,), jnp.int32)
        return Completion(ids, Box(1, size, (), jnp.int32))
