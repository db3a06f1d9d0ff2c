"""The command `rljax score` on a real folder: every form of file and row, from its flags."""

import json
import shutil
from pathlib import Path

import pytest
from model_folders import change_config
from test_golden_scores import GOLDEN
from test_score_file import command, put, rows_of  # noqa: F401
from test_sources import FORMS

from rljax.rlhf.data import load_tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m.content }}\n{% endfor %}{{ strftime_now('%Y') }}"
)


@pytest.fixture
def score(command, tmp_path):  # noqa: F811
    """Scores rows, or a file, and returns the rows that come out and the process."""

    def run(rows, *flags, name="out.jsonl", model=GOLDEN / "byte_level"):
        given = rows if isinstance(rows, Path) else put(tmp_path / "in.jsonl", rows)
        output = tmp_path / name
        paths = ("--model", model, "--input", given, "--output", output)
        done = command("score", *paths, "--max-length", "64", *flags)
        return (rows_of(output) if done.returncode == 0 else []), done

    run.folder = tmp_path
    return run


def test_forms_of_files_and_rows_give_the_numbers_of_the_plain_form(score):
    rows = [{"prompt": "Is it", "completion": f" warm?{'!' * i}"} for i in range(3)]
    plain, _ = score(rows)
    want = [row["score"] for row in plain]
    for form in FORMS:
        path = form(score.folder / "in.jsonl", rows)
        flags = ()
        if "parquet" in path.name:  # there it has messages
            template = score.folder / "template.jinja"
            template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
            flags = "--template", template, "--eos"
        got, done = score(path, *flags, name=f"{form.__name__}.jsonl")
        assert [row["score"] for row in got] == want, done.stderr
    ids = load_tokenizer(GOLDEN / "byte_level").encode(["Is it warm?"])[0].ids
    for name, row, flags in (
        ("columns", {"q": "Is it", "a": " warm?"},
         ("--prompt-column", "q", "--completion-column", "a")),
        ("many", {"prompt": "Is it", "completions": [" warm?", " warm?!"]}, ()),
        ("ranked", {"prompt": "Is it", "chosen": " warm?", "rejected": " warm?!"}, ()),
        ("shared", {"chosen": "Is it warm?", "rejected": "Is it warm?!"}, ()),
        ("tokens", {"prompt_ids": ids[:2], "completion_ids": [*ids[2:], 2]}, ()),
    ):  # fmt: skip
        got, done = score([row], *flags, name=name)
        assert got, done.stderr
        (got,) = got
        scores = [v for k, v in got.items() if k.startswith("score")]
        scores = scores[0] if name == "many" else scores
        assert scores == want[: len(scores)], name


@pytest.mark.slow
def test_a_template_of_a_file_and_a_date_that_a_resumed_file_keeps(score):
    template = score.folder / "chat.jinja"
    template.write_text(TEMPLATE)
    rows = [{"prompt": "Is it warm?", "completion": "Very."}]
    flags = "--template", template
    old, done = score(rows, *flags, "--date", "2001-02-03")
    settings = json.loads((score.folder / "out.jsonl.run.json").read_text())["settings"]
    assert settings["date"] == "2001-02-03"
    assert score(rows, *flags)[1].stdout == done.stdout  # though today is another day
    refused = score(rows, *flags, "--date", "2002-02-03")[1]
    assert refused.returncode == 1
    assert "date is 2001-02-03 there and 2002-02-03 here" in refused.stderr
    new, _ = score(rows, *flags, "--date", "2002-02-03", name="other")
    assert old[0]["score"] != new[0]["score"]


def test_faults_of_the_model_are_not_told_as_faults_of_rows(score):
    template = score.folder / "chat.jinja"
    rows = [{"prompt": "a", "completion": "b"}]
    for source in ("{% if", "{{ raise_exception('never') }}"):
        template.write_text(source)
        _, done = score(rows, "--template", template, "--error-rows")
        assert done.returncode == 1
        assert "the chat template refuses this chat" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not list(score.folder.glob("out*"))


def test_where_no_row_is_scored_the_command_fails(score):
    rows = [{"prompt": "a", "completion": ""}] * 2
    for _ in range(2):  # again, once it is finished
        _, done = score(rows, "--error-rows")
        assert done.returncode == 1
        assert "no row could be scored" in done.stderr
    assert len(rows_of(score.folder / "out.jsonl")) == 2
    assert score(rows, "--allow-empty", name="other")[1].returncode == 0


@pytest.mark.slow
def test_where_padding_is_eos_the_command_says_so(score):
    folder = shutil.copytree(GOLDEN / "byte_level", score.folder / "model")
    change_config(folder, pad_token_id=2)
    rows = [{"prompt": "a", "completion": "b"}]
    with pytest.warns(UserWarning, match="rows end with token 2"):
        before, _ = score(rows, model=folder)
    last, _ = score(rows, "--pooling", "last", name="last", model=folder)
    assert before[0]["score"] != last[0]["score"]


def test_templates_that_insist_on_something_are_no_fault_of_the_model(score):
    template = score.folder / "chat.jinja"
    template.write_text(
        "{% if not tools %}{{ raise_exception('needs tools') }}{% endif %}"
        "{{ messages[1].content }}"
    )
    rows = [{"prompt": "a", "completion": "b", "tools": [{"name": "t"}]}]
    assert score(rows, "--template", template)[0]
    _, done = score(
        [{"prompt": "a", "completion": "b"}], "--template", template, name="x"
    )
    assert "needs tools" in done.stderr
    (score.folder / "x.part.json").unlink()
    template.write_text(template.read_text() + " ")
    _, done = score(rows, "--template", template)
    assert "template is" in done.stderr
    assert len(done.stderr) < 600


def test_one_bad_row_of_tokens_is_an_error_row(score):
    rows = [{"prompt_ids": [5], "completion_ids": [x]} for x in (6, 10**20, 2**31 - 1)]
    good, *bad = score(rows, "--error-rows")[0]
    assert "score" in good
    assert all("score_error" in row for row in bad)


def test_error_rows_keep_their_own_columns(score):
    flags = ("--error-rows", "--chosen-column", "better", "--rejected-column", "worse")
    good = {"better": "a b", "worse": "a c", "score": 1}
    rows, _ = score([good, {"better": "a", "worse": 5, "score": 7}], *flags)
    assert [row["score"] for row in rows] == [1, 7]
    assert "'better' and 'worse' must both be text" in rows[1]["score_error"]
    done = score([good], "--chosen-column", "x", "--rejected-column", "x", name="y")[1]
    assert done.returncode == 2
    assert "'x' twice" in done.stderr
