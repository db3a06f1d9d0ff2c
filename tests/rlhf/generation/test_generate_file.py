"""The command `rljax generate`: lines that `rljax score` reads, the same after a kill."""

import json
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from threads_as_processes import Job

import rljax.commands.main
from rljax.rlhf.data import TokenPair
from rljax.rlhf.generation import generate_file
from rljax.rlhf.models import RewardModel
from rljax.rlhf.pretrained import load_language_model, save_reward_model
from rljax.rlhf.row_files import RowFileError
from rljax.rlhf.scoring import Scorer

USER = {"role": "user", "content": "Is it warm?"}
ROWS = [{"id": i, "prompt": "the room " * (i % 4) + "is"} for i in range(9)]
NAMES = ["id", "prompt", "completion", "prompt_ids", "completion_ids", "log_prob"]
NAMES += ["finish_reason"]


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Dying:
    """A generator that is interrupted after some windows."""

    def __init__(self, generator, windows):
        self._generator, self._windows = generator, windows
        self.window, self.fingerprint = 6, generator.fingerprint

    def stream(self, windows, on_batch):
        for i, window in enumerate(self._generator.stream(windows, on_batch)):
            if i == self._windows:
                raise KeyboardInterrupt
            yield window


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("windows", [0, 1, 2])
def test_killed_in_any_window_it_goes_on_to_the_same_bytes(
    generator, tmp_path, windows
):
    given = put(tmp_path / "in.jsonl", ROWS)
    options = {"settings": {"a": 1}, "num_completions": 2}
    want = generate_file(Dying(generator, 9), given, tmp_path / "want", **options)
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        generate_file(Dying(generator, windows), given, output, **options)
    with (tmp_path / "out.part").open("ab") as file:
        file.write(b'{"torn')
    got = generate_file(Dying(generator, 9), given, output, **options)
    assert output.read_bytes() == (tmp_path / "want").read_bytes()
    same = "prompts", "completions", "tokens", "stopped", "rows", "errors"
    assert {name: got[name] for name in same} == {name: want[name] for name in same}
    assert (got["prompts"], got["completions"]) == (9, 18)
    with pytest.raises(RowFileError, match="num_completions is 2 there and 3 here"):
        generate_file(generator, given, output, settings={"a": 1}, num_completions=3)


def test_two_processes_write_what_one_writes(generator, tmp_path, monkeypatch):
    given = put(tmp_path / "in.jsonl", ROWS)
    options = {"settings": {"window": None}, "num_completions": 2}
    want = generate_file(Dying(generator, 9), given, tmp_path / "want", **options)
    output = tmp_path / "out"
    processes = Job(monkeypatch, 2)
    for windows in (1, 9):  # of three, of six completions

        def generate(process, windows=windows):
            one = Dying(generator, windows if process == 0 else 9)
            return generate_file(one, given, output, **options)

        results = processes.run(generate)
        assert (windows == 9) == output.exists()
    assert output.read_bytes() == (tmp_path / "want").read_bytes()
    assert results[0] == results[1]
    same = "prompts", "completions", "tokens", "stopped", "rows", "errors"
    assert {k: results[0][k] for k in same} == {k: want[k] for k in same}


def test_a_line_is_the_row_and_a_completion(generator, tmp_path):
    output = tmp_path / "out.jsonl"
    generate_file(
        generator, put(tmp_path / "in", ROWS), output, settings={}, num_completions=2
    )
    got = rows_of(output)
    assert [row["id"] for row in got] == [i for i in range(9) for _ in range(2)]
    want = generator.generate([row["prompt"] for row in ROWS], 2)
    assert [row["completion_ids"] for row in got] == [one.ids for one in want]
    for row in got:
        assert list(row) == NAMES
        assert row["prompt"] == ROWS[row["id"]]["prompt"]
        text = generator.tokenizer.decode(row["completion_ids"])
        assert row["completion"] == text
        assert generator.tokenizer.decode(row["prompt_ids"]) == row["prompt"]
        assert row["finish_reason"] in ("stop", "length")
        assert row["log_prob"] < 0


def test_blank_lines_and_other_rows_change_no_completion(generator, tmp_path):
    outputs = []
    for i, rows in enumerate((ROWS, [{"id": -1, "prompt": "x"}, *ROWS[1:4]])):
        output = tmp_path / f"out{i}"
        generate_file(generator, put(tmp_path / f"in{i}", rows), output, settings={})
        outputs.append(rows_of(output))
    for one, other in zip(outputs[0][1:4], outputs[1][1:], strict=True):
        assert one["completion_ids"] == other["completion_ids"]


def test_rows_that_cannot_be_completed(generator, tmp_path):
    rows = [{"prompt": "a"}, {"prompt": "x " * 60}, {"prompt": "b", "completion": "c"}]
    given, output = put(tmp_path / "in", rows), tmp_path / "out"
    with pytest.raises(RowFileError, match=r"line 3 of .*field 'completion' already"):
        generate_file(generator, given, output, settings={})
    result = generate_file(generator, given, output, settings={}, error_rows=True)
    good, long, taken = rows_of(output)
    assert "completion_error" not in good
    assert long["completion_error"].startswith("line 2: the prompt has 120 tokens")
    assert taken["completion"] == "c"
    assert "not overwritten" in taken["completion_error"]
    assert (result["rows"], result["prompts"], result["errors"]) == (3, 1, 2)


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs the command `rljax` in this process."""

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["rljax", *map(str, flags)])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
        monkeypatch.setenv("COLUMNS", "80")
        code = 0
        try:
            rljax.commands.main.main()
        except SystemExit as end:
            code = end.code or 0
        return subprocess.CompletedProcess(flags, code, *capfd.readouterr())

    return run


def test_what_is_generated_is_scored_as_it_was_sampled(folder, tmp_path, command):
    rows = [{"prompt": [USER], "id": 1}, {"prompt": "The", "chosen": "a", "id": 2}]
    paths = ("--input", put(tmp_path / "in", rows), "--output", tmp_path / "out")
    flags = ("--max-new-tokens", 8, "--num-completions", 3, "--top-k", 300, "--seed", 5)
    done = command("generate", "--model", folder, *paths, *flags)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["prompts"], result["completions"]) == (2, 6)
    names = "device tokens tokens_per_second compile_count seconds_run seconds_compile"
    assert set(names.split()) <= set(result)
    generated = rows_of(tmp_path / "out")
    assert [row["id"] for row in generated] == [1, 1, 1, 2, 2, 2]
    assert generated[0]["prompt"] == [USER]

    module, _ = load_language_model(folder)
    reward = RewardModel(module.config)
    variables = jax.jit(reward.init)(
        jax.random.key(0), jnp.zeros((1, 4), jnp.int32), jnp.ones(1, jnp.int32)
    )
    judge = tmp_path / "judge"
    params = jax.tree.map(lambda x: 9 * x, variables["params"])
    save_reward_model(judge, reward, variables | {"params": params})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, judge / name)
    paths = ("--input", tmp_path / "out", "--output", tmp_path / "scored")
    done = command("score", "--model", judge, *paths)
    assert done.returncode == 0, done.stderr
    scored = rows_of(tmp_path / "scored")
    assert [{k: v for k, v in row.items() if k != "score"} for row in scored] == (
        generated
    )
    pairs = [TokenPair(row["prompt_ids"], row["completion_ids"]) for row in generated]
    want = Scorer.load(judge).score(pairs)
    np.testing.assert_allclose([row["score"] for row in scored], want, rtol=1e-5)
    assert np.std(want) > 0


def test_help(command):
    done = command("generate", "--help")
    assert done.returncode == 0
    flags = """model input output max-new-tokens num-completions temperature top-k top-p
        min-p greedy seed stop template date bos no-bos prompt-column batch-size window
        error-rows distributed connect-timeout"""
    for flag in flags.split():
        assert f" --{flag}" in done.stdout
    boxes = [line for line in done.stdout.splitlines() if line[:1] in "│╭╰"]
    assert all(len(line) <= 80 for line in boxes)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--max-new-tokens", "0"), 2, "max_new_tokens must be at least 1, got 0"),
        (("--temperature", "0"), 2, "temperature must be above 0, got 0.0"),
        (("--top-p", "1.5"), 2, "top_p must lie in (0, 1], got 1.5"),
        (("--greedy", "--num-completions", "2"), 2, "with --greedy"),
        (("--seed", "-1"), 2, "seed must lie in"),
        (("--input", "/nowhere"), 1, "/nowhere, which is no file"),
        (("--model", "/nowhere"), 1, "/nowhere"),
        (("--stop", "Is it warm"), 2, "is not one token"),
        (("--max-new-tokens", "64"), 2, "context of 64 tokens together"),
    ],
)
def test_bad_usage(folder, tmp_path, command, flags, status, message):
    given = {"--model": folder, "--input": put(tmp_path / "in", ROWS[:1])}
    given |= {"--output": tmp_path / "out", "--max-new-tokens": 4}
    flat = [x for pair in given.items() if pair[0] not in flags for x in pair]
    done = command("generate", *flat, *flags)
    assert done.returncode == status, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.part").exists()
