"""The page of a reward model's evaluation, as text and in a real browser."""

import dataclasses
import json
import re

import numpy as np
import pytest
from test_browser import browser, opened  # noqa: F401

from rljax.report.reward_page import WrongPair, save_reward_page
from rljax.rlhf.evaluation import Comparisons, evaluate_scores, most_wrong

EVIL = "</script><b>@data@@player.js@<!--"


def pairs_of(size=400, members=3):
    """Scores of made-up utilities, which long completions have more often."""
    generator = np.random.default_rng(0)
    utilities = generator.normal(size=(size, 2))
    noise = generator.normal(size=(size, 2, members))
    lengths = np.rint(100 + 20 * utilities + generator.normal(0, 20, (size, 2)))
    better = (utilities[:, 0] > utilities[:, 1]) * 1.0
    gaps = utilities[:, 0] - utilities[:, 1]
    scores = 2 * utilities[..., None] + noise
    return Comparisons.of(members=scores, probs=better, lengths=lengths, gaps=gaps)


def page_of(path, evaluation, **more):
    about = {"title": "A reward model", "command": "rljax reward", "versions": {}}
    save_reward_page(path, evaluation, **about | more)
    return path.read_text()


def data_in(page):
    (text,) = re.findall(
        r'<script id="data" type="application/json">(.*?)</script>', page
    )
    assert "NaN" not in text
    return json.loads(text)


def test_the_page_holds_the_evaluations_numbers(tmp_path):
    evaluation = evaluate_scores(pairs_of())
    page = page_of(tmp_path / "x.html", evaluation, versions={"jax": "1"})
    data = data_in(page)
    assert "@" not in re.sub(r"@media[^{]*", "", page)  # nothing left to fill in
    assert not re.search(r'(src|href)="(?!data:)', page)
    names = [row["name"] for row in data["accuracies"]]
    assert names[:3] == [
        "the reward model",
        "the longer is better",
        "the shorter is better",
    ]
    assert len(names) == 6
    assert data["accuracies"][0]["share"] == evaluation.accuracy.share
    assert data["accuracies"][0]["interval"] == list(evaluation.accuracy.interval)
    assert data["accuracies"][1]["share"] == evaluation.length_only.longer.share
    titles = [chart["title"] for chart in data["charts"]]
    assert titles == [
        "Accuracy by length",
        "Accuracy by rating gap",
        "Accuracy by the ensemble's spread",
    ]
    for chart in data["charts"]:
        assert sum(one["accuracy"]["num_pairs"] for one in chart["bins"]) == 400
    assert sum(one["accuracy"]["num_pairs"] for one in data["reliability"]) == 400
    figures = {name: value for name, value, _ in data["figures"]}
    low, high = (100 * end for end in evaluation.accuracy.interval)
    share = f"{100 * evaluation.accuracy.share:.1f} % [{low:.1f}, {high:.1f}]"
    assert figures["pair accuracy"] == share
    assert figures["ECE"] == f"{evaluation.calibration.ece:.4f}"
    assert f"{100 * evaluation.length_only.lead:+.1f} [" in data["beside"]
    assert data["examples"] == []
    assert list(tmp_path.iterdir()) == [tmp_path / "x.html"]


def test_what_is_not_known_is_left_out(tmp_path):
    evaluation = evaluate_scores(Comparisons.of([[1.0, 0.0], [0.0, 1.0]]))
    data = data_in(page_of(tmp_path / "x.html", evaluation))
    assert (data["charts"], data["beside"], len(data["accuracies"])) == ([], None, 1)


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([1.0, 1.0], "every pair is in the right order"),
        ([-1.0, -1.0], "no better than a coin"),
        ([9.0, 9.0, 9.0, -9.0], "too sure"),
        ([0.1, 0.1, 0.1, -0.1], "not sure enough"),
        ([np.log(3), np.log(3), np.log(3), -np.log(3)], "about right"),
    ],
)
def test_the_temperature_is_put_in_words(tmp_path, differences, words):
    scores = np.stack([differences, np.zeros(len(differences))], axis=1)
    evaluation = evaluate_scores(Comparisons.of(scores))
    data = data_in(page_of(tmp_path / "x.html", evaluation))
    (meaning,) = [x for name, _, x in data["figures"] if name == "fitted temperature"]
    assert words in meaning


def test_what_the_data_say_harms_nobody(tmp_path):
    wrong = [WrongPair(EVIL, EVIL, (0.0, 1.0))]
    about = dict.fromkeys(("title", "command", "length_unit", "gap_name"), EVIL)
    evaluation = evaluate_scores(pairs_of())
    page = page_of(tmp_path / "x.html", evaluation, wrong=wrong, **about)
    assert "</script><b>" not in page
    assert "<!--" not in page
    assert page.count("</script>") == 2
    assert data_in(page)["examples"][0]["texts"] == [EVIL, EVIL]


def test_a_pair_without_a_score_is_refused(tmp_path):
    wrong = [WrongPair("a", "b", (0.0, np.nan))]
    with pytest.raises(ValueError, match="must have finite scores"):
        page_of(tmp_path / "x.html", evaluate_scores(pairs_of()), wrong=wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1000, 1600])
def test_everything_is_drawn_and_readable(browser, tmp_path, mode, width):  # noqa: F811
    pairs = pairs_of()
    wrong = [
        WrongPair(EVIL, "words " * 50, tuple(sorted(pairs.scores[i])))
        for i in most_wrong(pairs, 3)
    ]
    path = tmp_path / "x.html"
    page_of(path, evaluate_scores(pairs), title=EVIL, wrong=wrong)
    with opened(browser, path, width, color_scheme=mode) as page:
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("h1").inner_text() == EVIL
        assert page.locator(".chart > svg").count() == 5
        assert page.locator("#accuracies circle").count() == 6
        assert page.locator("#charts circle").count() == 15
        drawn = page.locator("main").inner_html()
        for nonsense in ("NaN", "undefined", "null", "Infinity"):
            assert nonsense not in drawn
        assert not page.locator("#examples").is_visible()
        for summary in page.locator("summary").all():
            summary.click()
        assert page.locator("#examples tbody tr").count() == 3
        assert page.locator("#examples").is_visible()
        assert EVIL in page.locator("#examples").inner_text()
        assert page.locator("b:not(#summary b)").count() == 0
        outside, small, crossing = page.evaluate(
            """() => {
                const words = [...document.querySelectorAll(".chart text")];
                const boxes = words.map(one => one.getBoundingClientRect());
                const outside = words.filter((one, i) => {
                    const frame = one.closest("svg").getBoundingClientRect();
                    return boxes[i].left < frame.left - 1 || boxes[i].right > frame.right + 1;
                });
                const crossing = [];
                words.forEach((one, i) => words.slice(0, i).forEach((other, j) => {
                    const [a, b] = [boxes[i], boxes[j]];
                    if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
                        crossing.push([one.textContent, other.textContent]);
                }));
                const small = words.filter(one => parseFloat(getComputedStyle(one).fontSize) < 12);
                return [outside.map(one => one.textContent), small.length, crossing];
            }"""
        )
        assert (outside, small, crossing) == ([], 0, [])
        page.screenshot(path=tmp_path / "page.png", full_page=True)


@pytest.mark.browser
def test_higher_and_to_the_right_is_more(browser, tmp_path):  # noqa: F811
    evaluation = evaluate_scores(pairs_of())
    page_of(tmp_path / "x.html", evaluation)
    with opened(browser, tmp_path / "x.html") as page:
        page.wait_for_timeout(200)
        places = page.locator("#reliability circle").evaluate_all(
            "all => all.map(one => [one.cx.baseVal.value, one.cy.baseVal.value])"
        )
        across, down = np.transpose(places)
        bins = evaluation.calibration.reliability
        means = [one.mean for one in bins]
        shares = [one.accuracy.share for one in bins]
        assert np.corrcoef(across, means)[0, 1] == pytest.approx(1)
        assert np.corrcoef(down, shares)[0, 1] == pytest.approx(-1)
        ends = page.locator("#reliability .ideal").evaluate_all(
            "([one]) => ['x1', 'y1', 'x2', 'y2'].map(x => one[x].baseVal.value)"
        )
        # A bin whose accuracy is its confidence would lie on the dashed line.
        slope = (ends[3] - ends[1]) / (ends[2] - ends[0])
        on_line = ends[1] + slope * (across - ends[0])
        over = np.sign(np.round(on_line - down, 3))
        assert (over == np.sign(np.subtract(shares, means))).all()
        across = page.locator("#accuracies circle").evaluate_all(
            "all => all.map(one => one.cx.baseVal.value)"
        )
        only = evaluation.length_only
        shares = [evaluation.accuracy, only.longer, only.shorter]
        shares = [one.share for one in (*shares, *dict(evaluation.ensemble).values())]
        assert np.corrcoef(across, shares)[0, 1] == pytest.approx(1)


@pytest.mark.browser
@pytest.mark.parametrize("name", ["one pair", "all right", "all wrong", "all tied"])
def test_odd_evaluations_are_drawn_too(browser, tmp_path, name):  # noqa: F811
    scores = {
        "one pair": [[1.0, 0.0]],
        "all right": [[1e9, -1e9]] * 50,
        "all wrong": [[0.0, 9.0]] * 50,
        "all tied": [[0.0, 0.0]] * 50,
    }[name]
    lengths, gaps = np.ones((len(scores), 2)), np.zeros(len(scores))
    evaluation = evaluate_scores(Comparisons.of(scores, lengths=lengths, gaps=gaps))
    page_of(tmp_path / "x.html", dataclasses.replace(evaluation, temperature=2.0))
    with opened(browser, tmp_path / "x.html", 420) as page:
        page.wait_for_timeout(200)
        drawn = page.locator("main").inner_html()
        for nonsense in ("NaN", "undefined", "null", "Infinity"):
            assert nonsense not in drawn
        assert page.locator(".chart circle").count() == 3 + 1 + 2
        assert "(scores / 2)" in page.locator("#reliability").inner_text()
