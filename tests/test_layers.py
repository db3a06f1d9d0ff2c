"""Imports go down only: a module imports from strictly lower rows."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = """
0   base files spaces shapes ranges sharding sincos noise
1   returns losses distributions                rlhf.logps rlhf.tokenizer
2   networks normalize lanes                    rlhf.tokens rlhf.model rlhf.bandit rlhf.losses rlhf.data rlhf.lora
3   rollout envs engine                                rlhf.reward_model rlhf.generate rlhf.rewards
4   algorithms objective                        rlhf.pretrained rlhf.sft rlhf.reward_training rlhf.dpo rlhf.policy_optimization
5   checkpoint metrics manifest                 rlhf.scoring rlhf.selection
6   run report ticker                           rlhf.score_tally
7   train launch sweep sweep_progress           rlhf.score_rows
8   interop plan sweep_folder                rlhf.evaluation rlhf.score_file
9   cli sweep_part                              rlhf.recipes
10  sweep_run
11  __init__ search sweep_experiment            rlhf
"""
RANK = {
    unit: int(line.split()[0])
    for line in ROWS.strip().splitlines()
    for unit in line.split()[1:]
}
MODULES = sorted((ROOT / "rljax").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_lower_rows(path):
    unit = unit_of(module_name(path))
    assert unit in RANK, f"{unit} has no row: give it one in this file"
    for imported in imports(path):
        lower = unit_of(imported)
        if lower == unit:
            continue  # modules of one package may import one another
        assert RANK[lower] < RANK[unit], f"{unit} may not import {lower}"
        if not unit.startswith(("rlhf", "cli", "__init__")):
            assert not lower.startswith("rlhf"), f"{unit} may not import {lower}"


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
            if node.module in ("rljax", "rljax.rlhf"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (n.removeprefix("rljax.") for n in names if n.startswith("rljax."))


def module_name(path):
    parts = path.relative_to(ROOT / "rljax").with_suffix("").parts
    return ".".join(parts if parts[-1] != "__init__" else parts[:-1]) or "__init__"


def unit_of(name):
    """A module's place in the rows: itself, or its package unless that is rlhf."""
    head, *rest = name.split(".")
    return ".".join([head, *rest[:1]]) if head == "rlhf" else head
