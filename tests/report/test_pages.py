"""The page of a sweep, as text; test_browser_sweep.py looks at it in a browser."""

import dataclasses
import json
import re

import numpy as np
import pytest

from rljax.envs.drawing import Circle, Picture
from rljax.numerics.statistics import interquartile_mean
from rljax.report.pages import TradeOff, save_report
from rljax.report.replay import Replay
from rljax.sweeps.results import Results


def results_of(configurations=6, seeds=4, evaluations=5):
    """Returns that rise the faster, the higher the index; one run diverges."""
    generator = np.random.default_rng(0)
    share = np.linspace(0, 1, evaluations)
    speed = np.arange(1, configurations + 1)[:, None, None]
    returns = 500 * (1 - np.exp(-2 * speed * share / configurations))
    returns = returns + generator.normal(0, 20, (configurations, seeds, evaluations))
    status = np.full((configurations, seeds), "finished", dtype="<U8")
    status[0, 0] = "diverged"
    returns[0, 0, 2:] = np.nan
    rates = np.geomspace(1e-4, 1e-1, configurations)
    return Results(
        tuple({"learning_rate": float(rate)} for rate in rates),
        tuple(range(seeds)),
        np.tile(np.arange(evaluations) * 10_000, (configurations, 1)),
        returns,
        status,
        np.full(configurations, evaluations - 1),
    )


def traded(**more):
    """Results with metrics, and a trade-off whose line the runs end near."""
    results = results_of(**more)
    shape = results.returns.shape
    kl = np.linspace(2.0, 0.5, shape[0])[:, None, None] + np.zeros(shape)
    kl = kl + np.random.default_rng(1).normal(0, 0.02, shape)
    results.metrics.update(kl=kl, reward=np.sqrt(kl) - 0.01)
    x = np.linspace(0.1, 3, 20)
    best = np.stack([x, np.sqrt(x)], axis=1)
    x = np.linspace(2.0, 0.5, shape[0])
    return results, TradeOff(line=best, goals=np.stack([x, np.sqrt(x)], axis=1))


def rolling(title, steps=30):
    pictures = [
        Picture(-1, -1, 1, 1, [Circle(t / steps, 0, 0.2)]) for t in range(steps + 1)
    ]
    return Replay(title, pictures, [1.0] * steps)


def page_of(path, results, **more):
    about = {"title": "A sweep", "command": "python it.py", "versions": {"jax": "1"}}
    save_report(path, results, **about | more)
    return path.read_text()


def data_in(page):
    (text,) = re.findall(
        r'<script id="data" type="application/json">(.*?)</script>', page
    )
    return json.loads(text)


def test_the_page_holds_the_sweeps_numbers(tmp_path):
    results = results_of()
    page = page_of(tmp_path / "report.html", results, target=475.0)
    data = data_in(page)
    assert "@" not in re.sub(r"@media[^{]*", "", page)  # nothing left to fill in
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace(
        "http-equiv", ""
    )
    assert [row["rank"] for row in data["rows"]] == list(range(1, 7))
    for row, summary in zip(data["rows"], results.summary(), strict=True):
        assert row["label"] == summary["label"]
        assert row["iqm"] == summary["return_iqm"]
        assert row["diverged"] == summary["diverged"]
        chance = summary["first_better"]
        if chance is None:
            assert row["better"] is None
            assert row["rank"] == 1
        else:
            shown = [chance.probability, *chance.interval]
            assert row["better"] == pytest.approx(shown, rel=1e-4)
            assert 0.5 < chance.probability <= 1
        assert len(row["means"]) == len(row["bands"]) == 5
    (lost,) = [row for row in data["rows"] if row["diverged"]]
    assert lost["lost"][0][0] == 1  # where it was last seen
    assert data["target"] == 475.0


def test_a_curve_is_the_mean_of_the_runs_that_did_not_diverge(tmp_path):
    results = results_of(configurations=1, seeds=5)
    results.returns[0, 4, 3:] = np.nan
    results.status[0, 4] = "dropped"
    (row,) = data_in(page_of(tmp_path / "x.html", results))["rows"]
    assert (row["finished"], row["diverged"], row["dropped"]) == (3, 1, 1)
    for moment, (mean, band) in enumerate(zip(row["means"], row["bands"], strict=True)):
        runs = results.returns[0, 1:, moment]
        runs = runs[~np.isnan(runs)]
        assert len(runs) == (4 if moment < 3 else 3)
        assert mean == pytest.approx(interquartile_mean(runs), rel=1e-4)
        assert runs.min() - 0.01 <= band[0] < mean < band[1] <= runs.max() + 0.01
    assert row["iqm"] == pytest.approx(row["means"][-1], rel=1e-4)
    assert row["lost"] == [[1, pytest.approx(results.returns[0, 0, 1], rel=1e-4)]]


def test_what_the_data_say_harms_nobody(tmp_path):
    evil = "</script><b>@data@@player.js@<!--"
    about = dict.fromkeys(("title", "command", "ylabel"), evil)
    results = dataclasses.replace(
        results_of(), configurations=tuple({evil: x} for x in range(6))
    )
    replays = [rolling(evil)]
    path = tmp_path / "x.html"
    page = page_of(path, results, **about, versions={evil: evil}, replays=replays)
    assert "</script><b>" not in page
    assert "<!--" not in page
    assert page.count("</script>") == 2
    data = data_in(page)
    assert data["command"] == data["ylabel"] == data["names"][0] == evil
    assert data["versions"] == [[evil, evil]]
    assert data["player"]["replays"][0]["title"] == evil
    shown = "&lt;/script&gt;&lt;b&gt;@data@@player.js@&lt;!--"
    assert f"<title>{shown}</title>" in page
    assert f"<h1>{shown}</h1>" in page
    assert list(tmp_path.iterdir()) == [path]


def test_replays_may_be_left_out(tmp_path):
    path = tmp_path / "x.html"
    assert data_in(page_of(path, results_of(), frames_per_second=0))["player"] is None
    assert data_in(page_of(path, results_of(), replays=[rolling("a")]))["player"]


def test_one_seed_has_no_band(tmp_path):
    data = data_in(page_of(tmp_path / "x.html", results_of(seeds=1)))
    for row in data["rows"]:
        assert row["bands"] == [None] * 5
        assert row["interval"] is None
    assert all(len(row["means"]) == 5 for row in data["rows"])


def test_where_all_diverged_there_is_no_mean(tmp_path):
    results = results_of()
    results.status[:] = "diverged"
    results.returns[:, :, 3:] = np.nan
    results.returns[1] = np.nan  # and these at once
    page = page_of(tmp_path / "x.html", results)
    assert "NaN" not in re.search(r'type="application/json">(.*?)</script>', page)[1]
    for row in data_in(page)["rows"]:
        assert row["iqm"] is row["interval"] is None
        assert row["means"] == row["bands"] == [None] * 5
        assert row["diverged"] == 4
    at_once = [row["lost"] == [] for row in data_in(page)["rows"]]
    assert sum(at_once) == 1


def test_a_trade_off_has_the_ends_of_the_runs_that_finished(tmp_path):
    results, chart = traded()
    results.status[3, 1] = "dropped"
    results.reached[2] = 2  # its configuration was solved at a rung
    results.returns[2, :, 3:] = np.nan
    results.metrics["kl"][5, 2, 4] = np.nan
    path = tmp_path / "x.html"
    data = data_in(page_of(path, results, trade_off=chart))["trade_off"]
    assert data["line"] == pytest.approx(chart.line)
    for rank, index in enumerate(results.ranking()):
        assert data["goals"][rank] == pytest.approx(chart.goals[index])
        last, lost = (2 if index == 2 else 4), {0: 0, 3: 1, 5: 2}.get(index)
        seeds = [seed for seed in range(4) if seed != lost]
        assert [end[0] for end in data["ends"][rank]] == seeds
        for seed, x, y in data["ends"][rank]:
            assert x == pytest.approx(
                results.metrics["kl"][index, seed, last], rel=1e-4
            )
            assert y == pytest.approx(np.sqrt(results.metrics["kl"][index, seed, last]) - 0.01, rel=1e-4)  # fmt: skip
    plain = data_in(page_of(path, results, trade_off=TradeOff(x="reward", y="kl")))
    assert plain["trade_off"]["line"] == plain["trade_off"]["goals"] == []
    assert plain["trade_off"]["ends"][0][0][1:] == data["ends"][0][0][:0:-1]
    assert data_in(page_of(path, results))["trade_off"] is None


@pytest.mark.parametrize(
    ("chart", "words"),
    [
        (TradeOff(x="kll"), "training has no 'kll'. Did you mean kl?"),
        (TradeOff(line=[(0.0, np.nan)]), "line and goals must be finite"),
        (TradeOff(goals=[(0.0, 1.0)]), "one for each of 6 configurations, got 1"),
    ],
)
def test_a_trade_off_must_fit_the_results(chart, words, tmp_path):
    with pytest.raises(ValueError, match=re.escape(words)):
        page_of(tmp_path / "x.html", traded()[0], trade_off=chart)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_256_configurations_stay_small(tmp_path):
    page = page_of(tmp_path / "x.html", results_of(256, 4, 20))
    assert len(page) < 2_000_000


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"target": np.inf}, "target must be a finite return, got inf"),
        ({"target": np.nan}, "target must be a finite return, got nan"),
        ({"frames_per_second": 0.0}, "must be positive and finite, got 0.0"),
    ],
)
def test_it_refuses(more, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        page_of(tmp_path / "x.html", results_of(), replays=[rolling("a")], **more)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sizes", [(0, 4, 5), (6, 0, 5), (6, 4, 0)])
def test_nothing_to_report_is_refused(sizes, tmp_path):
    empty = Results(
        ({"gamma": 1.0},) * sizes[0],
        tuple(range(sizes[1])),
        np.zeros((sizes[0], sizes[2])),
        np.zeros(sizes),
        np.full(sizes[:2], "finished"),
        np.zeros(sizes[0], int),
    )
    words = re.escape(f"got returns of shape {sizes}")
    with pytest.raises(ValueError, match=words):
        page_of(tmp_path / "x.html", empty)
