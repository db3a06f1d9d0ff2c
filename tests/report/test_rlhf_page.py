"""The page of an RLHF run, as text; test_browser_rlhf.py looks at it in a browser."""

import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
from test_pages import data_in, traded

from rljax.report import ShownCompletion, save_rlhf_page

EVIL = "</script><script>alert(1)</script><b>&amp; \"'@data@@elements.js@<!--"
TEXTS = ["\n", "", " שלום", "🙂", "\t", EVIL]


def rows_of(seed=0, updates=40):
    """A run's metrics: reward, KL and length rise, entropy falls; few rows have gold."""
    generator = np.random.default_rng(seed)
    rows = []
    for step in range(1, updates + 1):
        share, noise = step / updates, generator.normal(0, 0.03, 4)
        row = {"step": step, "completions": 64 * step, "learning_rate": 1e-3}
        row["reward"] = 0.2 + 0.6 * share + noise[0]
        row["kl"] = 4 * share**2 + abs(noise[1])
        row["completion_tokens"] = 12 + 6 * share + 10 * noise[2]
        row["entropy"] = 2.5 - 1.2 * share + noise[3]
        if step % 5 == 0:
            row["gold"] = 0.2 + 0.8 * share - 0.6 * share**2
        rows.append(row)
    return rows


def completions_of(learned, texts=("A plain sentence of words.", "Two\nlines.")):
    shown = []
    for i, text in enumerate(texts):
        tokens = re.findall(r"\s?[^\s]+|\s", text) + TEXTS
        ratios = learned * np.random.default_rng(i).normal(0, 1, len(tokens))
        figures = {"reward": 0.25 + 0.5 * learned, "gold": math.nan}
        shown.append(ShownCompletion(f"Prompt {i}? {EVIL}", tokens, ratios, figures))
    return shown


def page_of(path, **more):
    about = {
        "title": "RLHF of a small model",
        "command": "rljax rlhf",
        "versions": {"jax": "1"},
        "figures": {"gold_before": 0.25, "gold_after": 0.75, "method": "GRPO"},
        "curves": {"beta 0.1": rows_of()},
        "unit": "completions",
        "before": completions_of(0),
        "after": completions_of(1),
    }
    save_rlhf_page(path, **about | more)
    return path.read_text()


def test_the_page_holds_the_runs_numbers(tmp_path):
    page = page_of(tmp_path / "x.html", stages=[{"stage": "sft", "pairs": 1200}])
    data = data_in(page)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert not re.search(r"^@\w+\.\w+@$", page, re.MULTILINE)  # all are filled in
    names = ["reward", "gold", "kl", "completion_tokens", "entropy"]
    assert [curve["name"] for curve in data["curves"]] == names
    for curve in data["curves"]:
        (line,) = curve["lines"]
        rows = [row for row in rows_of() if curve["name"] in row]
        assert [x for x, _ in line] == [row["completions"] for row in rows]
        values = [row[curve["name"]] for row in rows]
        assert [y for _, y in line] == pytest.approx(values, rel=1e-4)
    assert "nats a completion" in data["curves"][2]["label"]
    assert data["figures"][0] == ["gold before", "0.25"]
    assert data["figures"][2] == ["method", "GRPO"]
    assert (data["columns"], data["stages"]) == (["stage", "pairs"], [["sft", "1,200"]])
    for i, shown in enumerate(completions_of(1)):
        before, after = data["samples"][i]["completions"]
        assert before["tokens"] == after["tokens"] == shown.tokens
        assert set(before["log_ratios"]) == {0.0}
        assert after["log_ratios"] == pytest.approx(shown.log_ratios, rel=1e-4)
        assert after["figures"] == [["reward", "0.75"], ["gold", "-"]]
    assert list(tmp_path.iterdir()) == [tmp_path / "x.html"]


def test_what_the_data_say_harms_nobody(tmp_path):
    page = page_of(
        tmp_path / "x.html",
        **dict.fromkeys(("title", "command"), EVIL),
        versions={EVIL: EVIL},
        figures={EVIL: EVIL},
        curves={EVIL: rows_of()},
        stages=[{EVIL: EVIL}],
    )
    assert page.count("</script>") == 2
    assert page.count("<script") == 2
    assert "<!--" not in page
    assert "<b>" not in page
    data = data_in(page)
    assert data["samples"][1]["prompt"] == f"Prompt 1? {EVIL}"
    assert data["samples"][1]["completions"][1]["tokens"][-6:] == TEXTS
    assert data["figures"] == data["versions"] == [[EVIL, EVIL]]
    assert data["columns"] == data["stages"][0] == data["runs"] == [EVIL]


def test_each_run_has_a_line_in_each_chart(tmp_path):
    runs = {f"beta {i}": rows_of(i) for i in range(3)}
    for row in runs["beta 1"]:
        del row["entropy"]
    data = data_in(page_of(tmp_path / "x.html", curves=runs))
    assert data["runs"] == list(runs)
    lengths = {x["name"]: list(map(len, x["lines"])) for x in data["curves"]}
    assert lengths["reward"] == [40, 40, 40]
    assert lengths["gold"] == [8, 8, 8]
    assert lengths["entropy"] == [40, 0, 40]


def test_what_is_not_known_is_left_out(tmp_path):
    rows = [
        {"answers": 8, "reward": None, "kl": math.nan, "held_out": jnp.float32(0.5)},
        {"answers": 16, "reward": 1.0, "kl": None},
    ]
    bare = {"before": [], "after": [], "figures": {}, "curves": {"a": rows}}
    data = data_in(page_of(tmp_path / "x.html", **bare, unit="answers"))
    assert {x["name"]: x["lines"] for x in data["curves"]} == {
        "reward": [[[8, None], [16, 1.0]]],
        "held_out": [[[8, 0.5]]],
    }
    assert data["samples"] == data["stages"] == data["columns"] == data["figures"] == []
    assert data["frontier"] is None
    assert data_in(page_of(tmp_path / "x.html", curves={}))["curves"] == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "-"),
        (0.123456, "0.1235"),
        (123456.7, "123,457"),
        (1234567, "1,234,567"),
        (np.float32(0.1), "0.1"),
        (jnp.float32(0.5), "0.5"),
        (True, "True"),
        ((0.25, None), "0.25, -"),
        ("as it is", "as it is"),
    ],
)
def test_a_figure_is_short(tmp_path, value, words):
    page = page_of(tmp_path / "x.html", figures={"x": value}, stages=[{"x": value}])
    data = data_in(page)
    assert data["figures"] == [["x", words]]
    assert data["stages"] == [[words]]


def test_stages_have_the_columns_of_all(tmp_path):
    stages = [{"stage": "sft", "loss": 1.5}, {"stage": "policy", "win_rate": 0.75}]
    data = data_in(page_of(tmp_path / "x.html", stages=stages))
    assert data["columns"] == ["stage", "loss", "win rate"]
    assert data["stages"] == [["sft", "1.5", "-"], ["policy", "-", "0.75"]]


@pytest.mark.parametrize(
    ("ratios", "limit"),
    [
        ([0.0, 0.0], 0.1),
        ([0.3, -math.nan], 0.5),
        ([-1.9], 2.0),
        ([2.0, -2.0], 2.0),
        ([1.0] * 99 + [60.0], 1.0),
        ([30.0, -60.0], 100.0),
        ([], 1.0),
    ],
)
def test_colors_span_most_log_ratios(tmp_path, ratios, limit):
    shown = [ShownCompletion("p", ["x"] * len(ratios), ratios, {})]
    data = data_in(page_of(tmp_path / "x.html", before=shown, after=shown))
    assert data["range"] == limit


def test_a_frontier_has_the_ends_of_a_sweeps_runs(tmp_path):
    results, chart = traded()
    both = {"frontier": chart, "frontier_results": results}
    frontier = data_in(page_of(tmp_path / "x.html", **both))["frontier"]
    assert [len(ends) for ends in frontier["ends"]] == [4, 4, 4, 4, 4, 3]
    assert frontier["rows"][0] == {"rank": 1, "label": "learning_rate 0.1"}
    for name in both:
        with pytest.raises(ValueError, match="Give both, or neither"):
            page_of(tmp_path / "y.html", **{name: both[name]})


def test_what_does_not_fit_is_refused(tmp_path):
    before, after = completions_of(0), completions_of(1)
    wrong = after[0]._replace(log_ratios=[0.0])
    for more, words in [
        ({"after": after[:1]}, "got 2 before and 1 after"),
        ({"after": after[::-1]}, "in the same order, got 'Prompt 0?"),
        ({"after": [wrong, after[1]]}, "tokens and 1 log-ratios at 0"),
        ({"before": before[::-1], "after": [wrong, wrong]}, "same prompts"),
        ({"unit": "completion"}, "row 0 of 'beta 0.1' has no 'completion'. Did you"),
        ({"curves": {"a": [{"completions": 1, "kl": [1.0, 2.0]}]}}, "got [1.0, 2.0]"),
        ({"curves": {"a": [{"completions": 1, "kl": "low"}]}}, "kl in a row of a run"),
    ]:
        with pytest.raises(ValueError, match=re.escape(words)):
            page_of(tmp_path / "x.html", **more)
    assert not list(tmp_path.iterdir())
