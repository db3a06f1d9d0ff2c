"""The page of a sweep, as text; test_browser_sweep.py looks at it in a browser."""

import json
import re

import numpy as np
import pytest

from rljax.report.html import save_report
from rljax.report.replay import Replay
from rljax.report.results import Results
from rljax.shapes import Circle, Picture


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
        np.arange(evaluations) * 10_000,
        returns,
        status,
    )


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
        assert len(row["means"]) == len(row["bands"]) == 5
    (lost,) = [row for row in data["rows"] if row["diverged"]]
    assert lost["lost"][0][0] == 1  # where it was last seen
    assert data["target"] == 475.0


def test_what_the_data_say_harms_nobody(tmp_path):
    evil = "</script><b>@data@"
    page = page_of(tmp_path / "x.html", results_of(), title=evil, command=evil)
    assert "</script><b>" not in page
    assert data_in(page)["command"] == evil


def test_one_seed_has_no_band_and_all_diverged_no_mean(tmp_path):
    data = data_in(page_of(tmp_path / "x.html", results_of(seeds=1)))
    assert data["rows"][0]["bands"] == [None] * 5
    results = results_of()
    results.status[:] = "diverged"
    data = data_in(page_of(tmp_path / "x.html", results))
    assert {row["iqm"] for row in data["rows"]} == {None}


def test_256_configurations_stay_small(tmp_path):
    page = page_of(tmp_path / "x.html", results_of(256, 4, 20))
    assert len(page) < 2_000_000


@pytest.mark.parametrize("more", [{"target": np.inf}, {"frames_per_second": 0.0}])
def test_it_refuses(more, tmp_path):
    with pytest.raises(ValueError, match="finite"):
        page_of(tmp_path / "x.html", results_of(), replays=[rolling("a")], **more)
    assert not (tmp_path / "x.html").exists()
