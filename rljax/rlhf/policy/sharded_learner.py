"""Policy optimization over a mesh of devices, where sample and update are called apart."""

import jax
from jax.sharding import Mesh

from rljax.base import Metrics
from rljax.rlhf.policy.policy_optimization import Learner, PolicyState, PolicyTask
from rljax.rlhf.policy.samples import Samples
from rljax.training.sharded import constrained, sharded, use_mesh


def sharded_learner(learner: Learner, mesh: Mesh) -> Learner:
    """Returns a learner whose states and samples are divided among a mesh's devices.

    Its algorithm is `rljax.training.sharded.sharded`'s. Rewards may lie anywhere. On a
    mesh of one device it is the learner itself.

    Args:
        learner: of `policy_optimization`.
        mesh: as `rljax.numerics.sharding.make_mesh` makes it.
    """
    if mesh.size == 1:
        return learner

    def sample(state: PolicyState, task: PolicyTask) -> tuple[PolicyState, Samples]:
        with use_mesh(mesh):
            state, samples = learner.sample(state, task)
            return constrained(state, mesh), samples

    def update(
        state: PolicyState, task: PolicyTask, samples: Samples, rewards: jax.Array
    ) -> tuple[PolicyState, Metrics]:
        with use_mesh(mesh):
            state, metrics = learner.update(state, task, samples, rewards)
            return constrained(state, mesh), constrained(metrics, mesh)

    return learner._replace(
        algorithm=sharded(learner.algorithm, mesh), sample=sample, update=update
    )
