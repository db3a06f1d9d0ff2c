"""The code of the README and the guides runs, and the README's claims about the project hold."""

import importlib
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXPERIMENTS = (ROOT / "experiments" / "README.md").read_text()


def snippets(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def docstring(module):
    return importlib.import_module(module).__doc__


QUICKSTART, *OTHERS = snippets(README)
WALK, OWN_NETWORK = snippets(docstring("rljax.envs"))
(ALGORITHM,) = snippets(docstring("rljax.algorithms"))


def test_the_quickstart_runs(capsys):
    assert len([line for line in QUICKSTART.splitlines() if line.strip()]) <= 15
    exec(compile(quick(QUICKSTART), "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[-1]) > 5


@pytest.mark.slow
def test_the_quickstart_solves_cartpole(capsys):
    exec(compile(QUICKSTART, "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[-1]) >= 475


def quick(code):
    """The code with the smallest budgets that it runs with."""
    for steps, fewer in (("100_000", "1_024"), ("10_000", "2_048")):
        code = code.replace(f"total_steps={steps}", f"total_steps={fewer}")
    return code


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    "code", [*OTHERS, *snippets(EXPERIMENTS), ALGORITHM, OWN_NETWORK]
)
def test_other_snippets_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"DIR": write_model(tmp_path) if "DIR" in code else None}
    exec(compile(quick(code), "snippet", "exec"), names)


@pytest.mark.slow
def test_the_environment_of_the_guide_is_trained_and_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(WALK, "rljax.envs", "exec"), names)
    names["gymnasium_env"].reset(seed=0)
    assert names["gymnasium_env"].render().std() > 0
    assert (tmp_path / "replay.html").stat().st_size > 1000
    assert (tmp_path / "replay.gif").stat().st_size > 1000


def write_model(folder):
    """A Hugging Face folder of a reward model whose tokens are words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    golden = ROOT / "tests" / "golden" / "pretrained" / "llama-reward"
    for path in golden.iterdir():
        shutil.copy(path, folder)
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "it": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_an_environment_takes_thirty_lines():
    lines = WALK[: WALK.index("\n# Check it")].splitlines()
    assert len([line for line in lines if line.strip()]) <= 30
    for what in ("check_environment(", "train(", "save_replay(", "GymnasiumEnv("):
        assert what in WALK


def test_it_is_a_page():
    assert len(README.splitlines()) <= 175
    assert not re.search(r"@[A-Z]+\b", README)  # nothing left to fill in


@pytest.mark.parametrize("folder", [".", "experiments", "experiments/results"])
def test_links_lead_to_files(folder):
    text = (ROOT / folder / "README.md").read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / folder / target).exists(), target


def test_every_package_is_named():
    for folder in (ROOT / "rljax").iterdir():
        if (folder / "__init__.py").exists():
            assert f"{folder.name}/" in README, folder.name


def test_every_experiment_is_named():
    for path in (ROOT / "experiments").glob("*.py"):
        if "__main__" in path.read_text():  # the others are parts of these
            assert path.name in EXPERIMENTS, path.name


def test_every_make_target_is_in_it():
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    assert {"run", "test", "check"} <= set(targets)
    for target in targets:
        assert f"make {target}" in README
