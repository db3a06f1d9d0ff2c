"""Two devices that pass for accelerators, and learners divided among them."""

import functools

import accelerator_models as models
import jax
import robustness_cartpole
from accelerator_parts import Program, step_of
from jax.sharding import NamedSharding

from rljax.algorithms import ppo
from rljax.numerics.sharding import make_mesh
from rljax.rlhf import (
    RewardConfig,
    RewardHyperparams,
    RewardModel,
    RewardTask,
    reward_training,
)
from rljax.training.sharded import layout, sharded


class Memory(str):
    """A device's, which JAX asks for its kind, or compares with one."""

    kind = property(str)


class Accelerator:
    """A device of the CPU that says it is none, so that code takes the other branch."""

    platform = "gpu"

    def __init__(self, device):
        self._device = device

    def __getattr__(self, name):
        return getattr(self._device, name)

    def default_memory(self):
        return Memory("device")

    def addressable_memories(self):
        return [self.default_memory()]


@functools.cache
def accelerators():
    """Two of them, the same ones each time."""
    return tuple(Accelerator(device) for device in jax.devices()[:2])


def mesh_of_two(**axis):
    """A mesh like those of `mesh_for`, along `population`, `data` or `model`."""
    return make_mesh(accelerators(), **axis)


def laid_out(tree, mesh):
    """The same shapes, each divided as `place` divides the arrays on a mesh."""

    def one(x, spec):
        where = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(one, tree, layout(tree, mesh))


def environments():
    """PPO of one agent, whose environments are divided."""
    script, mesh = robustness_cartpole, mesh_of_two(data=2)
    experiment = script.Experiment()
    learner = sharded(ppo.ppo(script.ENV, script.NETWORK, experiment.config), mesh)
    step, (state, task) = step_of(learner, experiment.hyperparams, script.TASK)
    return Program(step, (laid_out(state, mesh), task))


def parameters():
    """`rljax reward --fsdp 2`: of a reward model, a part on each device."""
    module, mesh = RewardModel(models.TINY.config), mesh_of_two(model=2)
    task = RewardTask(models.pairs(64), models.reward_variables(module)["params"])
    algorithm = sharded(reward_training(module, RewardConfig(batch_size=32)), mesh)
    step, (state, _) = step_of(algorithm, RewardHyperparams(), task)
    return Program(step, (laid_out(state, mesh), laid_out(task, mesh)))
