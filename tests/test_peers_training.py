"""Losses, gradients and tokens beside TRL: `make test-peers`."""

from pathlib import Path

import pytest
from golden_training import CASES, largest_difference, our_gradient
from tokenizer_folders import write_byte_level, write_sentence_piece

from rljax.rlhf.data import Pair, encode_pairs, encoding_config, load_tokenizer

pytest.importorskip("torch")  # not in every peer's environment
from golden.make_training import (
    CENTRING,
    REWARD_CASES,
    SFT_CASES,
    draw_rows,
    reward_gradient,
    sft_gradient,
)

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::FutureWarning")]

MODELS = Path(__file__).parent / "golden" / "pretrained"
FAMILIES = ("llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gpt2")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_losses_and_gradients_are_ours(family, case, tmp_path):
    from safetensors.numpy import save_file

    folder = MODELS / f"{family}-{CASES[case].kind}"
    rows = draw_rows()
    if case in REWARD_CASES:
        assert CASES["centred"].centring == CENTRING
        want, gradient = reward_gradient(folder, rows, **REWARD_CASES[case])
    else:
        want, gradient = sft_gradient(folder, rows, **SFT_CASES[case])
    if (family, case) == ("gpt2", "texts"):
        # For this family the trainer counts first tokens too, which nothing predicts.
        count = sum(map(len, rows["texts"]))
        scale = count / (count - len(rows["texts"]))
        want *= scale
        gradient = {name: scale * x for name, x in gradient.items()}
    save_file(gradient, tmp_path / "gradient.safetensors", {"format": "pt"})
    loss, ours = our_gradient(folder, rows, CASES[case])
    assert abs(loss - want) < 1e-5
    assert largest_difference(folder, ours, tmp_path / "gradient.safetensors") < 1e-5


ROWS = [
    ("Is it warm?\n", "Very, since noon.", "No."),
    ("Is it warm? ", "Very</s>", "\n\nVery, the heater is on"),
    ("", "seventy degrees", "71.5 F"),
    ("Is it", " warm?\n\n", " cold"),
    ("Ist es wärmer? 🔥", "日本語 … ❤️", "nein"),
]
CHATS = [
    [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": completion},
    ]
    for prompt, completion, _ in ROWS
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module", params=[write_byte_level, write_sentence_piece])
def folder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("explicit", [True, False])
def test_transformers_rewards_train_on_our_tokens(folder, explicit):
    prompts, chosen, rejected = zip(*ROWS, strict=True)
    if explicit:
        data = {"prompt": prompts, "chosen": chosen, "rejected": rejected}
    else:
        data = {
            "chosen": list(map("".join, zip(prompts, chosen, strict=True))),
            "rejected": list(map("".join, zip(prompts, rejected, strict=True))),
        }
    made = prepared("Reward", folder, data)
    for name, completions in (("chosen_ids", chosen), ("rejected_ids", rejected)):
        pairs = [Pair(*pair) for pair in zip(prompts, completions, strict=True)]
        ours, _ = tokens(folder, pairs, template=False)
        assert [row[name] for row in made] == ours


@pytest.mark.parametrize("form", ["texts", "completions", "chats", "chat completions"])
def test_transformers_tuning_learns_our_tokens(folder, form):
    prompts, completions, _ = zip(*ROWS, strict=True)
    template = form.startswith("chat")
    if form == "texts":
        data = {"text": list(map("".join, zip(prompts, completions, strict=True)))}
    elif form == "completions":
        data = {"prompt": prompts, "completion": completions}
    elif form == "chats":
        data = {"messages": CHATS}
    else:
        data = {
            "prompt": [chat[:1] for chat in CHATS],
            "completion": [chat[1:] for chat in CHATS],
        }
    made = prepared("SFT", folder, data, template=TEMPLATE if template else None)
    if template:
        pairs = [Pair(chat[:1], chat[1]) for chat in CHATS]
    else:
        pairs = [Pair(*pair) for pair in zip(prompts, completions, strict=True)]
    ours, starts = tokens(folder, pairs, template=TEMPLATE if template else False)
    assert [row["input_ids"] for row in made] == ours
    if form in ("texts", "chats"):
        starts = [0] * len(starts)
    for row, start in zip(made, starts, strict=True):
        learned = [label != -100 for label in row["labels"]]
        assert learned == [i >= start for i in range(len(learned))]


def tokens(folder, pairs, template):
    """Our ids, and the first token that is learned of each."""
    tokenizer = load_tokenizer(folder)
    encoding = encoding_config(tokenizer, max_length=1024, template=template)
    rows = encode_pairs(tokenizer, pairs, encoding)
    return [row.ids for row in rows], [row.num_prompt for row in rows]


def prepared(kind, folder, data, template=None):
    """The rows that a trainer of TRL's makes of data."""
    import datasets
    import transformers
    import trl

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8,
        num_hidden_layers=1, num_attention_heads=1, num_labels=1,
    )  # fmt: skip
    auto = {
        "Reward": transformers.AutoModelForSequenceClassification,
        "SFT": transformers.AutoModelForCausalLM,
    }[kind]
    made = getattr(trl, f"{kind}Trainer")(
        model=auto.from_config(config),
        args=getattr(trl, f"{kind}Config")(
            str(folder / "out"), use_cpu=True, bf16=False, report_to=[]
        ),
        train_dataset=datasets.Dataset.from_dict(data),
        processing_class=tokenizer,
    )
    return list(made.train_dataset)
