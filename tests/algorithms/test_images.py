"""PPO on images; without XLA's optimizations a convolution takes for ever."""

import jax
import pytest
from test_readme import OWN_NETWORK
from test_spaces_learned import SPACES, Seen, learned

import rljax

pytestmark = pytest.mark.optimized


@pytest.mark.slow
def test_it_learns_from_images():
    env = Seen(SPACES["image"])
    rljax.check_environment(env, None, jax.random.key(0), num_steps=4)
    assert learned(env, 60) > 0.9


@pytest.mark.slow
def test_a_network_of_ones_own_is_taken():
    names: dict = {}
    exec(compile(OWN_NETWORK, "rljax.envs", "exec"), names)
    network = names["ImageActorCritic"](num_actions=2)
    assert learned(Seen(SPACES["image"]), 60, network=network) > 0.9
