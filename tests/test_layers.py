"""Imports go down only: a module imports from strictly lower rows."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = "extras base < numerics < envs < rollouts < algorithms < training < sweeps rlhf < report < interop commands"
RLHF = "data < row_files models < pretrained < scoring generation < training < policy direct frozen selection evaluation segments < recipes"
MODULES = sorted((ROOT / "rljax").rglob("*.py"))


def ranks(order):
    rows = enumerate(order.split(" < "))
    return {unit: rank for rank, row in rows for unit in row.split()}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_lower_packages(path):
    package, *rest = module_name(path).split(".")
    if package == "__init__":
        return  # the library's front door
    for name in imports(path):
        imported, *inner = name.split(".")
        if imported != package:
            assert ranks(ORDER)[imported] < ranks(ORDER)[package], name
        elif package == "rlhf" and rest and inner[0] != rest[0]:
            assert ranks(RLHF)[inner[0]] < ranks(RLHF)[rest[0]], name


def test_importing_rljax_imports_nothing_optional():
    import subprocess

    code = (
        "import sys, jax, flax.linen, optax, chex; before = set(sys.modules); "
        "import rljax; print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    slow = {
        "gymnasium", "matplotlib", "tokenizers", "tensorboardX", "optuna", "orbax",
        "scipy", "tyro", "rich",
    }  # fmt: skip
    assert not slow & {name.split(".")[0] for name in loaded}


def imports(path):
    """Names of rljax modules that a file imports at run time."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module]
            if node.module == "rljax":
                names = [f"rljax.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (n.removeprefix("rljax.") for n in names if n.startswith("rljax."))


def module_name(path):
    parts = path.relative_to(ROOT / "rljax").with_suffix("").parts
    return ".".join(parts if parts[-1] != "__init__" else parts[:-1]) or "__init__"
