"""The README's code runs, and its claims about the project hold."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_quickstart_runs_and_solves_cartpole(capsys):
    code = SNIPPETS[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    exec(compile(code, "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[-1]) >= 475


@pytest.mark.compiles
@pytest.mark.parametrize("code", SNIPPETS[1:])
def test_other_snippets_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"DIR": write_model(tmp_path) if "DIR" in code else None}
    exec(compile(code, "README.md", "exec"), names)
    if "theirs" in names:
        names["theirs"].reset(seed=0)
        assert names["theirs"].render().std() > 0
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
    (code,) = (code for code in SNIPPETS if "class Walk:" in code)
    lines = code[: code.index("\n# It is checked")].splitlines()
    assert len([line for line in lines if line.strip()]) <= 30
    for what in ("check_environment(", "train(", "save_replay(", "GymnasiumEnv("):
        assert what in code


def test_it_is_a_page():
    assert len(README.splitlines()) <= 260
    assert not re.search(r"@[A-Z]+\b", README)  # nothing left to fill in


def test_every_package_is_named():
    for folder in (ROOT / "rljax").iterdir():
        if (folder / "__init__.py").exists():
            assert f"{folder.name}/" in README, folder.name


def test_every_make_target_is_in_it():
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    assert {"run", "test", "check"} <= set(targets)
    for target in targets:
        assert f"make {target}" in README
