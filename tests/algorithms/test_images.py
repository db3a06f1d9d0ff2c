"""PPO on images; without XLA's optimizations a convolution takes for ever."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from test_spaces_learned import SPACES, Seen, learned

import rljax
from rljax.algorithms.distributions import Categorical

pytestmark = pytest.mark.optimized


@pytest.mark.slow
def test_it_learns_from_images():
    env = Seen(SPACES["image"])
    rljax.check_environment(env, None, jax.random.key(0), num_steps=4)
    assert learned(env, 60) > 0.9


def test_a_network_of_ones_own_is_taken():
    class Mine(nn.Module):
        def setup(self):
            self.conv, self.actor = nn.Conv(4, (3, 3), strides=(4, 4)), nn.Dense(2)
            self.critic = nn.Dense(1)

        def features(self, image):
            x = nn.relu(self.conv(image.astype(jnp.float32) / 255))
            return x.reshape(*x.shape[:-3], -1)

        def policy(self, image):
            return Categorical(self.actor(self.features(image)))

        def value(self, image):
            return self.critic(self.features(image))[..., 0]

        def __call__(self, image):
            return self.policy(image), self.value(image)

    assert learned(Seen(SPACES["image"]), 60, network=Mine()) > 0.9
