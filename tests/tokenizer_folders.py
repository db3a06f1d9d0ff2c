"""Small tokenizers of the two kinds that most models have."""

import json

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "[INST]"]
TEXTS = [
    "Is it warm? Very, since noon. The room is cold\n\nand the heater is on.\n\n\n",
    "Human: what now? Assistant: nothing, I think. Very warm, not very cold, 71.5 F.",
    "the target of the thermostat is seventy degrees; on if below, off if above.",
]


def write_byte_level(folder, **settings):
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it; adds no BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(
                    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
                ),
                "isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _write(folder, tokenizer, **settings)


def write_sentence_piece(folder, **settings):
    """BPE over words that begin with a mark, as Llama 2, Mistral and Zephyr have it."""
    alphabet = sorted({*"".join(TEXTS), "▁"} - {" "})
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=160, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(TEXTS, trainer)
    learned = json.loads(trained.to_str())["model"]
    words = sorted(learned["vocab"], key=learned["vocab"].get)
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *bytes_, *words])}
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            [tuple(pair) for pair in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return _write(folder, tokenizer, **settings)


def _write(folder, tokenizer, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    } | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
