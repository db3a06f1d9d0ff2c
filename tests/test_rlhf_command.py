"""The command `rljax rlhf`, from its files to a folder that others read."""

import datetime
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizer_folders
from model_folders import change_config
from tokenizers import Tokenizer, models, pre_tokenizers

import rljax.commands.main
import rljax.commands.rlhf_run
from rljax.commands.rlhf import Rlhf, rlhf
from rljax.commands.rlhf_prompts import read_and_split
from rljax.commands.rlhf_reward import (
    closed_reward,
    closing_tokens,
    load_judge,
    num_read_otherwise,
)
from rljax.commands.score import Score, score
from rljax.rlhf import (
    Generator,
    Pair,
    RewardModel,
    Scorer,
    Transformer,
    TransformerConfig,
    generate,
    load_language_model,
    load_reward_model,
    load_tokenizer,
    save_language_model,
    save_reward_model,
)
from rljax.rlhf.data.encoding import encode_prompts
from rljax.rlhf.data.rows import left_padded
from rljax.rlhf.data.tokenizer import token_texts
from rljax.rlhf.policy import Samples
from rljax.training.files import RunError
from rljax.training.run_folder import RunOptions, UsageError

SHAPE = TransformerConfig(
    vocab_size=430, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, max_length=64,
)  # fmt: skip
BYTES = tokenizer_folders.write_byte_level
DATE = datetime.date(2026, 1, 1)
WORDS = ["warm", "cold", "the room", "a heater", "seventy", "below", "above", "since"]


def write_words(folder, **settings):
    """Words as tokens: whatever is sampled has the same tokens as text, if not special."""
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    words = [*specials, "?", *" ".join(["Is it and or", *WORDS]).split()]
    words += [f"w{i}" for i in range(400)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("unk_token", "bos_token", "eos_token", "pad_token")
    named = dict(zip(names, specials, strict=True))
    named["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(named | settings))
    return folder


def write_policy(folder, write_tokenizer=write_words, **settings):
    module, first = Transformer(SHAPE), jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(lambda key: module.init(key, first, method="logits"))
    save_language_model(folder, module, init(jax.random.key(0)))
    return write_tokenizer(folder, **settings)


def write_judge(folder, write_tokenizer=write_words, **settings):
    module = RewardModel(SHAPE, pad_id=3)
    row = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    save_reward_model(folder, module, jax.jit(module.init)(jax.random.key(1), *row))
    return write_tokenizer(folder, **settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A policy, a reward model of its tokenizer and one of another, and prompts."""
    folder = tmp_path_factory.mktemp("rlhf")
    write_policy(folder / "policy")
    write_judge(folder / "judge")
    write_judge(folder / "other", tokenizer_folders.write_sentence_piece)
    rows = [{"prompt": f"Is it {word}?"} for word in WORDS]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "prompts.jsonl").write_text(text)
    return folder


def command(made, out, **changes):
    flags = {
        "policy": made / "policy",
        "reward": made / "judge",
        "prompts": made / "prompts.jsonl",
        "updates": 3,
        "num_prompts": 2,
        "group_size": 4,
        "max_new_tokens": 6,
        "learning_rate": 3e-3,
        "run": RunOptions(out=out, checkpoint_every=0.0),
    }
    return Rlhf(**flags | changes)


@pytest.fixture(scope="module")
def whole(made):
    out = made / "whole"
    return out, rlhf(command(made, out))


def test_a_folder_and_its_figures_are_what_comes_out(made, whole):
    out, result = whole
    rows = read_rows(out / "metrics.jsonl")
    assert [row["completions"] for row in rows] == [8, 16, 24]
    assert rows[-1]["held_out"] == pytest.approx(result["proxy_after"], abs=1e-6)
    assert (result["prompts"], result["held_out_prompts"]) == (7, 1)
    assert (result["reward_reads"], result["read_otherwise"]) == ("tokens", 0.0)
    assert 0 <= result["win_rate_ci95"][0] <= result["win_rate"] <= 1
    assert json.loads((out / "result.json").read_text()) == result
    page = (out / "rlhf.html").read_text()
    assert "win rate" in page
    assert "Is it " in page
    assert rlhf(command(made, out)) == result  # finished: repeated


@pytest.mark.slow
def test_the_folder_completes_as_the_learned_policy_does(made, whole):
    out, _ = whole
    folder = Generator.load(out / "model", max_new_tokens=6, greedy=True)
    (found,) = folder.generate(["Is it warm?"])
    module, before = load_language_model(made / "policy")
    _, after = load_language_model(out / "model")
    ids = jnp.array([found.prompt_ids + found.ids])
    logits = jax.jit(lambda after: module.apply(after, ids, method="logits"))(after)
    best = jnp.argmax(logits[0, len(found.prompt_ids) - 1 : -1], axis=-1)
    assert best.tolist() == found.ids
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert all(jax.tree.leaves(changed))
    assert json.loads((out / "model" / "generation_config.json").read_text()) == {
        "eos_token_id": [2]
    }


def test_it_goes_on_where_it_was_stopped_bit_for_bit(made, whole, monkeypatch):
    out = made / "stopped"
    train = rljax.commands.rlhf_run.train

    def short(algorithm, state, task, num_updates, **how):
        train(algorithm, state, task, 2, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(rljax.commands.rlhf_run, "train", short)
    with pytest.raises(KeyboardInterrupt):
        rlhf(command(made, out))
    monkeypatch.undo()
    assert_same(whole[0], whole[1], out, rlhf(command(made, out)))


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(one, result, other, again):
    """Two runs have the same model, rows and figures, times and paths aside."""

    def timeless(row):
        kept = ("seconds", "completions_per_second", "model")
        return {name: x for name, x in row.items() if not name.startswith(kept)}

    assert timeless(result) == timeless(again)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        files = [path / "model" / name for path in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes()
    first, second = (
        [timeless(row) for row in read_rows(path / "metrics.jsonl")]
        for path in (one, other)
    )
    assert first == second


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.filterwarnings("ignore:rows end with token 2")
@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["bare", "chat"])
@pytest.mark.parametrize("pad_id", [None, 2, 3])
@pytest.mark.some_cases(1)
def test_tokens_are_scored_as_their_texts_are(tmp_path, template, pad_id):
    """What stopped, what did not, what is empty: as `rljax score` scores texts."""
    write_judge(tmp_path, BYTES, chat_template=template)
    change_config(tmp_path, pad_token_id=pad_id)
    judge = load_judge(tmp_path, None, DATE)
    policy = judge.reader
    stop_ids, pair = (2, 5), Pair("Is it warm?", "")
    closing = closing_tokens(policy, judge, stop_ids, [pair], 32)
    assert closing[0] in stop_ids, closing
    (prompt,) = encode_prompts(policy.tokenizer, [pair], policy.encoding)
    texts = [" Very warm.", " cold", "", " above 71"]
    bodies = [encoded.ids for encoded in policy.tokenizer.encode(texts)]
    stopped = [True, False, True, True]
    rows = [
        [*prompt, *ids, *[5] * ends] for ids, ends in zip(bodies, stopped, strict=True)
    ]
    ids, lengths = left_padded(rows, 32)
    ids = np.stack([np.roll(row, n) for row, n in zip(ids, lengths, strict=True)])
    samples = Samples(
        ids=jnp.asarray(ids),
        lengths=jnp.asarray(lengths),
        starts=jnp.full(len(rows), len(prompt)),
        prompt_index=jnp.zeros(len(rows), int),
        stopped=jnp.asarray(stopped),
        log_probs=jnp.zeros((len(rows), 10)),
    )
    reward = jax.jit(closed_reward(judge.module, closing, None))
    by_tokens = reward(judge.variables, samples)
    scorer = Scorer.load(tmp_path, allow_empty=True)
    wanted = scorer.score([(pair.prompt, text) for text in texts])
    np.testing.assert_allclose(by_tokens, wanted, atol=1e-5)
    other = wanted + np.array([0.0, 1.0, 0.0, 0.0])
    assert num_read_otherwise(judge, closing, samples, other) == 1


@pytest.mark.slow
def test_texts_are_scored_where_tokens_would_be_read_otherwise(made, tmp_path):
    trims = TEMPLATE.replace("m.content", "m.content | trim")
    folders = {
        "bare": write_judge(tmp_path / "bare", BYTES),
        "other": made / "other",
        "chat": write_judge(tmp_path / "chat", BYTES, chat_template=TEMPLATE),
        "trims": write_judge(tmp_path / "trims", BYTES, chat_template=trims),
    }
    judges = {name: load_judge(path, None, DATE) for name, path in folders.items()}

    def closing(policy, judge, longest=32, stop_ids=(2, 5)):
        pair, reader = Pair("Is it?", ""), judges[policy].reader
        return closing_tokens(reader, judges[judge], stop_ids, [pair], longest)

    assert closing("bare", "bare") == (2,)
    assert "another tokenizer" in closing("bare", "other")
    assert "another chat template" in closing("bare", "chat")
    assert "changes completions" in closing("trims", "trims")
    assert "where no completion stops" in closing("chat", "chat", stop_ids=(2,))
    assert "context has 64" in closing("bare", "bare", longest=64)


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["judge", "other"])
def test_metrics_have_what_rljax_score_gives(made, tmp_path, monkeypatch, reward):
    """The samples of each update, as text, through the other command."""
    seen = []
    load = rljax.commands.rlhf_run.load_judge

    def load_and_watch(*where):
        judge = load(*where)

        def of_texts(prompts, completions):
            pairs = zip(prompts, completions, strict=True)
            rows = [{"prompt": one.prompt, "completion": text} for one, text in pairs]
            seen.append(rows)
            return judge.of_texts(prompts, completions)

        return judge._replace(of_texts=of_texts)

    monkeypatch.setattr(rljax.commands.rlhf_run, "load_judge", load_and_watch)
    out = tmp_path / "out"
    result = rlhf(command(made, out, reward=made / reward, score_texts=True))
    assert result["reward_reads"] == "texts"
    rows = read_rows(out / "metrics.jsonl")
    updates = [samples for samples in seen if len(samples) == 8]  # of two prompts
    assert len(updates) == len(rows) == 3
    for row, samples in zip(rows, updates, strict=True):
        file = tmp_path / "samples.jsonl"
        file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        scored = tmp_path / f"scored-{row['step']}.jsonl"
        score(Score(model=made / reward, input=file, output=scored, allow_empty=True))
        scores = [row["score"] for row in read_rows(scored)]
        assert row["reward"] == pytest.approx(np.mean(scores), abs=1e-4)


@pytest.mark.slow
def test_texts_too_go_on_bit_for_bit(made, tmp_path, monkeypatch):
    flags = {"reward": made / "other", "recipe": "rloo", "num_minibatches": 2}
    result = rlhf(command(made, tmp_path / "whole", **flags))
    train = rljax.commands.rlhf_run.train

    def short(algorithm, state, task, num_updates, **how):
        train(algorithm, state, task, 1, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(rljax.commands.rlhf_run, "train", short)
    with pytest.raises(KeyboardInterrupt):
        rlhf(command(made, tmp_path / "stopped", **flags))
    monkeypatch.undo()
    again = rlhf(command(made, tmp_path / "stopped", **flags))
    assert_same(tmp_path / "whole", result, tmp_path / "stopped", again)


@pytest.mark.slow
@pytest.mark.parametrize("train", ["last", "lora"])
def test_a_part_is_trained_and_merged(made, tmp_path, monkeypatch, train):
    """The folder completes greedily as the parameters do that were learned."""
    learned = []
    save = rljax.commands.rlhf_run._save_model

    def save_and_keep(command, policy, params, folder):
        learned.append((policy, params))
        save(command, policy, params, folder)

    monkeypatch.setattr(rljax.commands.rlhf_run, "_save_model", save_and_keep)
    rlhf(command(made, tmp_path, train=train, last_layers=1, lora_rank=2))
    before = load_language_model(made / "policy")[1]["params"]
    after = load_language_model(tmp_path / "model")[1]["params"]
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    assert not changed["embed"]["embedding"]
    kernels = jax.tree_util.tree_leaves_with_path(changed["layers"])
    assert all(x for path, x in kernels if path[-1].key == "kernel")
    folder = Generator.load(tmp_path / "model", max_new_tokens=6, greedy=True)
    (found,) = folder.generate(["Is it warm?"])
    ((policy, params),) = learned
    wanted = generate(
        policy.module,
        params,
        jnp.array([found.prompt_ids]),
        jnp.array([len(found.prompt_ids)]),
        jax.random.split(jax.random.key(0), 1),
        max_new_tokens=6,
        stop_ids=policy.stop_ids,
        greedy=True,
    )
    assert wanted.ids[0, : wanted.lengths[0]].tolist() == found.ids


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    ["rloo", "dr_grpo", "reinforce", "ppo", "dapo", "gspo", "cispo"],
)
def test_every_recipe_runs(made, tmp_path, recipe):
    assert np.isfinite(rlhf(command(made, tmp_path, recipe=recipe))["proxy_after"])


@pytest.mark.slow
def test_what_is_rewarded_is_learned(made, tmp_path):
    """The reward rises, also on prompts that are held out."""
    write_judge(tmp_path / "judge")
    module, variables = load_reward_model(tmp_path / "judge")
    # It reads the mean of a row's tokens; as drawn, it hardly looks beyond the row's end.
    layers = variables["params"]["trunk"]["layers"]
    for name, factor in (
        ("q", 0.0),
        ("k", 0.0),
        ("down", 0.0),
        ("v", 20.0),
        ("o", 20.0),
    ):
        layers[name]["kernel"] = factor * layers[name]["kernel"]
    save_reward_model(tmp_path / "judge", module, variables)
    files = {"reward": tmp_path / "judge"}
    for name, word in (("prompts", "and"), ("eval", "or")):
        rows = [{"prompt": f"Is it {a} {word} {b}?"} for a in WORDS for b in WORDS]
        files[name] = tmp_path / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"updates": 100, "num_prompts": 4, "group_size": 8, "max_new_tokens": 3}
    flags = files | more | {"beta": 0.0, "stop_penalty": 0.0, "learning_rate": 0.01}
    result = rlhf(command(made, tmp_path / "out", **flags))
    assert result["proxy_after"] > result["proxy_before"] + 0.2
    assert result["win_rate_ci95"][0] > 0.5
    assert result["kl"] > 1.0


def test_other_files_or_flags_are_refused(made, whole):
    with pytest.raises(UsageError, match=r"flags.group_size is 4 there and 2 here"):
        rlhf(command(made, whole[0], group_size=2))
    with pytest.raises(UsageError, match="reward_sha256"):
        rlhf(command(made, whole[0], reward=made / "other"))


def test_flags_that_do_not_fit_are_refused_before_anything_is_written(made, tmp_path):
    for wrong, message in (
        ({"num_minibatches": 3}, "must divide"),
        ({"group_size": 1}, "group_size must be at least 2"),
        ({"recipe": "dapo", "beta": 0.1}, "beta needs a recipe with a divergence"),
        ({"temperature": 0.0}, "temperature"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ):
        with pytest.raises(ValueError, match=message):
            rlhf(command(made, tmp_path / "out", **wrong))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="Name one with --out"):
        Rlhf(policy=made, reward=made, prompts=made)


def test_prompts_that_cannot_be_learned_from_are_named(made, tmp_path):
    def refused(name, text, **changes):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(text)
        with pytest.raises(RunError) as error:
            rlhf(command(made, tmp_path / name, prompts=file, **changes))
        return str(error.value)

    assert "must hold prompts, got none" in refused("empty", "")
    row = json.dumps({"completion": "Very."}) + "\n"
    assert "line 1 of" in refused("completions", row)
    long = json.dumps({"prompt": "Is it warm? " * 20}) + "\n"
    assert "Shorten it, or lower --max-new-tokens" in refused("long", long)
    assert "line 1" in refused("file", "{")
    two = json.dumps({"prompt": "Is it?"}) + "\n"
    few = refused("few", two * 3 + row.replace("completion", "prompt"))
    assert "needs 2 different prompts" in few
    assert "got 1 and 1" in few
    chat = json.dumps({"prompt": [{"role": "user", "content": "Is it?"}]}) + "\n"
    assert "must be text where there is no chat template" in refused("chat", chat)


def test_folders_of_the_wrong_kind_are_named(made, tmp_path):
    with pytest.raises(RunError, match="--policy must be the folder of a causal"):
        rlhf(command(made, tmp_path / "a", policy=made / "judge"))
    with pytest.raises(RunError, match="--reward must be the folder of a reward"):
        rlhf(command(made, tmp_path / "b", reward=made / "policy"))
    with pytest.raises(RunError, match="Give a --policy"):
        rlhf(command(made, tmp_path / "c", policy=made / "none"))
    endless = write_policy(tmp_path / "endless", eos_token=None)
    with pytest.raises(RunError, match="needs a token that ends a completion"):
        rlhf(command(made, tmp_path / "d", policy=endless))


def test_prompts_are_taken_once_and_never_both_learned_and_held_out(
    made, caplog, capsys
):
    file = made / "twice.jsonl"
    rows = [{"prompt": f"Is it {word}?"} for word in [*WORDS[:4], WORDS[0]]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = load_judge(made / "judge", None, DATE).reader
    flags = command(made, made / "no", prompts=made / "prompts.jsonl", eval=file)
    learned_from, held_out = read_and_split(flags, reader, reader)
    assert [pair.prompt for pair in held_out.pairs] == [
        row["prompt"] for row in rows[:4]
    ]
    assert [pair.prompt for pair in learned_from.pairs] == [
        f"Is it {word}?" for word in WORDS[4:]
    ]
    log = capsys.readouterr().err
    assert "1 repeated prompts" in log
    assert "4 prompts of --eval are in --prompts" in log
    alone = read_and_split(command(made, made / "no"), reader, reader)
    assert {len(each.pairs) for each in alone} == {7, 1}


def test_bad_prompts_are_passed_over_if_asked(made, capsys):
    file = made / "bad.jsonl"
    good = (made / "prompts.jsonl").read_text()
    file.write_text("{\n" + json.dumps({"prompt": "Is it? " * 60}) + "\n" + good)
    reader = load_judge(made / "judge", None, DATE).reader
    flags = command(made, made / "no", prompts=file, skip_bad=True)
    learned_from, held_out = read_and_split(flags, reader, reader)
    assert len(learned_from.pairs) + len(held_out.pairs) == len(WORDS)
    assert "2 prompts passed over" in capsys.readouterr().err


def test_pieces_of_a_text_are_its_tokens(tmp_path):
    tokenizer = load_tokenizer(BYTES(tmp_path))
    text = " warm 🔥 é <b>"
    ids = [*tokenizer.encode([text])[0].ids, 2]
    found = token_texts(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == text
    assert found[-1] == ""


def test_the_command_line_has_it(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["rljax", "rlhf", "--help"])
    with pytest.raises(SystemExit):
        rljax.commands.main.main()
    shown = capsys.readouterr().out
    assert {"--policy", "--stop-penalty", "--out"} <= set(shown.split())
