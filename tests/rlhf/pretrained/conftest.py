"""What the tests of models share."""

import shutil
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[2] / "golden" / "pretrained"


@pytest.fixture
def folder(tmp_path):
    """A reward model's folder, to be changed."""
    return shutil.copytree(GOLDEN / "llama-reward", tmp_path / "model")
