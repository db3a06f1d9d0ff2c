import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.numerics.sharding import make_mesh, split_rows
from rljax.training.sharded import layout, mesh_for, use_mesh


def sizes(mesh):
    return tuple(mesh.shape.values())


def test_a_mesh_has_three_axes_and_data_takes_what_is_left():
    assert make_mesh().axis_names == ("population", "data", "model")
    assert sizes(make_mesh()) == (1, 2, 1)
    assert sizes(make_mesh(population=2)) == (2, 1, 1)
    assert sizes(make_mesh(model=2)) == (1, 1, 2)


@pytest.mark.parametrize(
    "axes", [{"model": 3}, {"population": 2, "data": 2}, {"data": 0}]
)
def test_sizes_that_are_not_those_of_the_devices_are_refused(axes):
    with pytest.raises(ValueError, match="must multiply to its 2 devices, got"):
        make_mesh(**axes)


@pytest.mark.parametrize(
    ("members", "rows", "expected"),
    [(8, 16, (2, 1, 1)), (1, 16, (1, 2, 1)), (3, 6, (1, 2, 1)), (1, 3, (1, 1, 1))],
)
def test_members_are_divided_first_and_then_rows(members, rows, expected):
    assert sizes(mesh_for(rows, members=members)) == expected


def test_rows_are_divided_only_where_a_mesh_is_in_use():
    rows, odd = jnp.arange(8.0).reshape(4, 2), jnp.arange(3.0)
    assert split_rows(rows) is rows

    def program(x):
        with use_mesh(make_mesh()):
            return split_rows(x)

    placed = jax.device_put(rows, jax.NamedSharding(make_mesh(), jax.P()))
    assert jax.jit(program)(placed).sharding.spec[0] == "data"
    odd = jax.device_put(odd, jax.NamedSharding(make_mesh(), jax.P()))
    assert jax.jit(program)(odd).sharding.is_fully_replicated


def test_a_leaf_lies_as_its_path_says():
    mesh = jax.sharding.AbstractMesh((1, 2, 4), ("population", "data", "model"))
    shapes = {
        "envs": {"x": np.zeros((16, 3)), "odd": np.zeros(6)},
        "params": {
            "layers": {"kernel": np.zeros((32, 64, 256)), "bias": np.zeros((4, 8))},
            "embed": np.zeros((1000, 64)),
            "odd": np.zeros((33, 101)),
        },
        "opt_state": [np.zeros(4096)],
        "key": np.zeros(4096),
    }
    found = layout(shapes, mesh)
    assert found["envs"] == {"x": jax.P(("data", "model")), "odd": jax.P()}
    assert found["params"]["layers"]["kernel"] == jax.P(None, None, "model")
    assert found["params"]["layers"]["bias"] == jax.P()  # too small to be worth it
    assert found["params"]["embed"] == jax.P("model")
    assert found["params"]["odd"] == jax.P()  # 4 divides neither axis
    assert found["opt_state"] == [jax.P("model")]
    assert found["key"] == jax.P()
