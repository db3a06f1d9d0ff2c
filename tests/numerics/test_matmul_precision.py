"""The precision of products is a choice that reaches programs and manifests."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from rljax.commands.score import Score, score
from rljax.numerics.precision import matmul_precision, use_matmul_precision
from rljax.training.files import RunError
from rljax.training.manifest import manifest
from rljax.training.run_folder import RunOptions

GOLDEN = Path(__file__).parents[1] / "golden" / "scoring"


@pytest.fixture(autouse=True)
def restored():
    """What it was before the test."""
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.parametrize("name", ["default", "high", "highest"])
def test_programs_ask_for_the_precision_that_was_chosen(name):
    use_matmul_precision(name)
    assert matmul_precision() == name
    assert manifest("some", RunOptions())["machine"]["matmul_precision"] == name

    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    program = jax.jit(lambda x: x @ x).lower(x).as_text()
    assert program.count(f"precision = [{name.upper()}, {name.upper()}]") == 1


def test_a_precision_that_there_is_not_is_refused():
    before = matmul_precision()
    with pytest.raises(ValueError, match="must be one of default, high, highest, got"):
        use_matmul_precision("float16")
    assert matmul_precision() == before


def test_a_file_of_scores_has_one_precision(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "Is it", "completion": " warm?"}\n')
    paths = {"model": GOLDEN / "byte_level", "input": path, "output": tmp_path / "out"}
    score(Score(**paths, max_length=64))
    assert matmul_precision() == "highest"
    with pytest.raises(RunError, match="matmul_precision is absent there and high"):
        score(Score(**paths, max_length=64, matmul_precision="high"))
