"""Brings sentences with human ratings: how negative or positive each is, from -4 to 4.

    python experiments/fetch_ratings.py --out DIR

They are Hutto and Gilbert's (2014, VADER; MIT licence), from its package. Every rater's
number is kept, so that pairs can be drawn as people would judge them. A file a source,
`movies.jsonl`, `tweets.jsonl`, `editorials.jsonl`, `products.jsonl`: a line has `text`,
`ratings` and their `mean`. (The means that were published with 199 of the tweets are
others, 0.99 correlated with these.) 84 texts come twice.

Expected: 23,703 texts, 15 ratings each at least, 5 MB; 5 seconds, and the download of 2.5 MB.
"""

import dataclasses
import io
import json
import statistics
import tarfile
from pathlib import Path
from typing import Any

from rljax.commands.fetch import cache_folder, download, fetch_once
from rljax.commands.launch import launch
from rljax.training.files import RunError, write_atomically
from rljax.training.loggers import log_line

SDIST = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INSIDE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SOURCES = {
    "movies": "movieReviewSnippets",
    "tweets": "tweets",
    "editorials": "nytEditorialSnippets",
    "products": "amazonReviewSnippets",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    out: Path | None = None
    """Folder of the files; by default in the user's cache."""


def main(experiment: Experiment) -> dict[str, Any]:
    """Brings the ratings, or finds them there, and returns how many there are."""
    folder = experiment.out or cache_folder() / "ratings"
    return fetch_once(folder, SHA256, write_ratings)


def write_ratings(folder: Path) -> dict[str, Any]:
    """Writes the file of each source, and returns how many texts and ratings it has."""
    flags = ("--no-binary", "vaderSentiment")
    sdist = download("vaderSentiment==3.3.2", SDIST, SHA256, *flags)
    log_line(f"Writing {', '.join(f'{name}.jsonl' for name in SOURCES)}.")
    texts, ratings = {}, {}
    with (
        tarfile.open(sdist) as outer,
        tarfile.open(fileobj=io.BytesIO(read(outer, INSIDE))) as archive,
    ):
        for name, source in SOURCES.items():
            rows = read_source(archive, f"hutto_ICWSM_2014/{source}")
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            write_atomically(folder / f"{name}.jsonl", "".join(lines))
            texts[name] = len(rows)
            ratings[name] = sum(len(row["ratings"]) for row in rows)
    return {"texts": texts, "ratings": ratings}


def read_source(archive: tarfile.TarFile, source: str) -> list[dict[str, Any]]:
    """The rows of a source, in the order of its texts."""
    raters = {
        number: json.loads(ratings)
        for number, _, _, ratings in table(archive, f"{source}_anonDataRatings.txt")
    }
    return [
        {
            "text": text.strip(),
            "ratings": raters[number],
            "mean": round(statistics.mean(raters[number]), 6),
        }
        for number, _, text in table(archive, f"{source}_GroundTruth.txt")
    ]


def table(archive: tarfile.TarFile, name: str) -> list[list[str]]:
    """The cells of a file with tabs between them."""
    lines = read(archive, name).decode("utf-8-sig").split("\n")
    return [line.rstrip("\r").split("\t") for line in lines if line.strip()]


def read(archive: tarfile.TarFile, name: str) -> bytes:
    """The bytes of a file in an archive."""
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise RunError(f"the package has no {name}. Use the package's version 3.3.2.")
    return file.read()


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
