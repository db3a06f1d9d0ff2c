"""What is shown of a sweep: the terminal's table, and the curves."""

import numpy as np
import pytest
from test_pages import data_in, page_of, results_of

from rljax.report import plots
from rljax.report.tables import say_results
from rljax.sweeps.results import Results


def results(values, finals, names=("learning_rate",)):
    """One evaluation of each configuration, at which its runs have these returns."""
    returns = np.asarray(finals, np.float64)[:, :, None]
    count, seeds, _ = returns.shape
    points = tuple(dict(zip(names, row, strict=True)) for row in values)
    return Results(
        points,
        tuple(range(seeds)),
        np.full((count, 1), 1000),
        returns,
        np.full((count, seeds), "finished"),
        np.zeros(count, int),
    )


@pytest.mark.parametrize("scale", [1e-3, 0.95, 500.0, -2e4, 1e9, 1e38])
@pytest.mark.parametrize("num_names", [1, 3, 6])
def test_the_table_tells_configurations_apart_at_80_columns(
    scale, num_names, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    finals = scale * np.array([[1.0, 1.01], [0.95, 0.96], [0.9, 0.91]])
    values = [[0.00012345 * i] * num_names for i in range(1, 4)]
    names = [f"some_parameter_{i}" for i in range(num_names)]
    its = results(values, finals, names)
    say_results(its)
    said = capsys.readouterr().err
    assert "\N{HORIZONTAL ELLIPSIS}" not in said
    assert max(map(len, said.splitlines())) <= 80
    rows = [line for line in said.splitlines() if "2/2" in line]
    assert len({row.split("[")[0] for row in rows}) == 3
    for row, index in zip(rows, its.ranking(), strict=True):
        interval = row[row.index("[") + 1 : row.index("]")].split(",")
        wanted = sorted(finals[index])
        np.testing.assert_allclose(list(map(float, interval)), wanted, rtol=1e-3)


def test_of_equal_interquartile_means_the_higher_mean_is_first():
    finals = [[1.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 4.0]]
    its = results([[1], [2], [3]], finals)
    assert [row["return_iqm"] for row in its.summary()] == [5.0] * 3
    assert its.ranking() == [1, 2, 0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_every_return_is_within_the_axes(sign, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    its = results_of()
    its.returns[:] *= sign
    plots.sweep_curves(tmp_path / "x.png", its, title="")
    for axes in drawn[0].axes:
        low, high = axes.get_ylim()
        for line in axes.get_lines():
            y = np.asarray(line.get_ydata(), float)
            y = y[np.isfinite(y)]
            assert low <= y.min()
            assert y.max() <= high


def test_values_may_be_infinite_or_sizes(tmp_path):
    names = ("vf_clip_eps", "hidden")
    values = [[0.1, (64, 64)], [float("inf"), (8,)]]
    its = results(values, [[1.0, 2.0], [3.0, 4.0]], names)
    assert its.label(1) == "vf_clip_eps inf, hidden 8"
    rows = data_in(page_of(tmp_path / "x.html", its))["rows"]
    assert [row["values"] for row in rows] == [["inf", [8]], [0.1, [64, 64]]]
    plots.sweep_curves(tmp_path / "x.png", its, title="")
    alone = results([[0.1], [float("inf")]], [[1.0, 2.0], [3.0, 4.0]])
    plots.sweep_curves(str(tmp_path / "x.png"), alone, title="")
