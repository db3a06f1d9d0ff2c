"""The scores that transformers gave (tests/golden/make_scoring.py): texts, chats, padding."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from model_folders import change_config

from rljax.rlhf.data import Pair, TokenPair, encode_pairs, encoding_config
from rljax.rlhf.scoring.scorer import Scorer

GOLDEN = Path(__file__).parents[2] / "golden" / "scoring"


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("kind", ["byte_level", "sentence_piece"])
def test_tokens_and_scores_are_transformers(kind):
    golden = json.loads((GOLDEN / kind / "golden.json").read_text())
    scorer = Scorer.load(GOLDEN / kind, max_tokens=4096)
    tokenizer = scorer.tokenizer
    cut, expected = [], []
    for pad, pad_id in golden["pads"].items():
        for row in golden["rows"]:
            encoding = encoding_config(
                tokenizer,
                max_length=512,
                template=row["template"] and golden["template"],
                pad_id=pad_id,
            )
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the chat template does not use")
                (got,) = encode_pairs(tokenizer, [Pair(*row["pair"])], encoding)
            want = row["ids"]
            assert got.ids == want[: len(got.ids)]
            assert set(want[len(got.ids) :]) <= {pad_id}
            cut.append(TokenPair([], got.ids))
            expected.append(row["scores"][pad])
    np.testing.assert_allclose(scorer.score(cut), expected, rtol=0, atol=2e-5)
    assert np.std(expected) > 0.5


def test_where_padding_is_eos_scores_are_read_before_it(tmp_path):
    golden = json.loads((GOLDEN / "byte_level" / "golden.json").read_text())
    folder = shutil.copytree(GOLDEN / "byte_level", tmp_path / "model")
    change_config(folder, pad_token_id=2)
    (row, *_) = golden["rows"]
    pair = Pair(*row["pair"])
    with pytest.warns(UserWarning, match="token 2, which is the model's padding"):
        score = Scorer.load(folder).score([pair])
    np.testing.assert_allclose(score, row["scores"]["eos"], rtol=0, atol=2e-5)
    last = Scorer.load(folder, pooling="last").score([pair])
    np.testing.assert_allclose(last, row["scores"]["none"], rtol=0, atol=2e-5)
    assert abs(row["scores"]["none"] - row["scores"]["eos"]) > 1e-2
