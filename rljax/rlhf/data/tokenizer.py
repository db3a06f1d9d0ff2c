"""Text to token ids: bytes, or the tokenizer of a Hugging Face folder."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rljax.extras import require
from rljax.training.files import FolderError, inside, one_line

ChatTemplate = str | Mapping[str, str]


class Encoding(Protocol):
    """The tokens of a text."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""

    def char_to_token(self, char_pos: int) -> int | None:
        """Returns which token holds a character of the text; None if none does."""


class Tokenizer(Protocol):
    """Turns text into token ids.

    Attributes:
        vocab_size: ids of ordinary text lie in [0, vocab_size); added tokens may not.
        bos_id: begins a text, or None.
        eos_id: ends a text, or None.
        begin_ids: what the tokenizer puts before a text without a template.
        end_ids: what it puts after one.
        chat_template: Jinja source that writes chat messages as text, or several of
            them by name, or None.
        fingerprint: differs between tokenizers that give a text different ids.
    """

    @property
    def vocab_size(self) -> int: ...  # noqa: D102
    @property
    def bos_id(self) -> int | None: ...  # noqa: D102
    @property
    def eos_id(self) -> int | None: ...  # noqa: D102
    @property
    def begin_ids(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def end_ids(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def chat_template(self) -> ChatTemplate | None: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def encode(self, texts: Sequence[str]) -> Sequence[Encoding]:
        """Returns the tokens of each text, without special tokens added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, without special tokens."""

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], template: str, /, **variables: Any
    ) -> str:
        """Returns the messages as text, written by a template."""


def check_tokenizer(
    tokenizer: Tokenizer, vocab_size: int, model: str = "model"
) -> None:
    """Raises a ValueError for a tokenizer of more ids than a model embeds."""
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids, but the {model} embeds only "
            f"{vocab_size:,}. Use the {model}'s own tokenizer."
        )


@dataclasses.dataclass(frozen=True)
class ByteEncoding:
    """The bytes of a text as tokens."""

    text: str
    ids: list[int]

    def char_to_token(self, char_pos: int) -> int | None:
        """Returns the first byte of a character; None after the end."""
        if char_pos >= len(self.text):
            return None
        return len(self.text[:char_pos].encode())


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes as ids 0 to 255, BOS 256 and EOS 257: no file, no training, no chats.

    Example:
        >>> ByteTokenizer().encode(["hi"])[0].ids
        [104, 105]
    """

    vocab_size: int = dataclasses.field(default=258, init=False)
    bos_id: int | None = dataclasses.field(default=256, init=False)
    eos_id: int | None = dataclasses.field(default=257, init=False)
    begin_ids: tuple[int, ...] = dataclasses.field(default=(), init=False)
    end_ids: tuple[int, ...] = dataclasses.field(default=(), init=False)
    chat_template: None = dataclasses.field(default=None, init=False)
    fingerprint: str = dataclasses.field(default="bytes", init=False)

    def encode(self, texts: Sequence[str]) -> list[ByteEncoding]:
        """The bytes of each text."""
        return [ByteEncoding(text, list(text.encode())) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become the replacement character."""
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], template: str, /, **variables: Any
    ) -> str:
        """Raises a ValueError: bytes have no tokens for the parts of a chat."""
        raise ValueError("bytes write no chats. Give text, or use another tokenizer.")


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Returns the text that each token adds; a character stands at its last token.

    Example:
        >>> token_texts(ByteTokenizer(), list("né!".encode()))
        ['n', '', 'é', '!']
    """
    texts = [tokenizer.decode(ids[:i]).rstrip("\ufffd") for i in range(len(ids))]
    texts.append(tokenizer.decode(ids))
    return [after[len(before) :] for before, after in itertools.pairwise(texts)]


@dataclasses.dataclass(frozen=True)
class HFTokenizer:
    """A tokenizer of transformers, which gives the ids and the text that it gives."""

    tokenizer: Any
    begin_ids: tuple[int, ...]
    end_ids: tuple[int, ...]

    @property
    def vocab_size(self) -> int:
        """Ids lie below this, but for those of added tokens."""
        return self.tokenizer.vocab_size

    @property
    def bos_id(self) -> int | None:
        """The id of the token that begins a text."""
        return self.tokenizer.bos_token_id

    @property
    def eos_id(self) -> int | None:
        """The id of the token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def pad_id(self) -> int | None:
        """The id of the token for padding; as TRL has it, EOS where there is none."""
        own = self.tokenizer.pad_token_id
        return self.eos_id if own is None else own

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The folder's template, or several by name."""
        return self.tokenizer.chat_template

    @property
    def fingerprint(self) -> str:
        """A hash of everything that a text's ids depend on."""
        tokenizer = self.tokenizer
        special = sorted(tokenizer.special_tokens_map.items())
        backend = tokenizer.backend_tokenizer
        parts = backend.to_str(), backend.encode_special_tokens, special
        return hashlib.sha256(
            repr((*parts, self.begin_ids, self.end_ids)).encode()
        ).hexdigest()

    def encode(self, texts: Sequence[str]) -> Sequence[Encoding]:
        """The tokens of each text; special tokens written in it count as such."""
        backend = self.tokenizer.backend_tokenizer
        return backend.encode_batch(list(texts), add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        backend = self.tokenizer.backend_tokenizer
        return backend.decode(list(ids), skip_special_tokens=True)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], template: str, /, **variables: Any
    ) -> str:
        """The messages as the method of this name in transformers writes them."""
        return self.tokenizer.apply_chat_template(
            list(messages), chat_template=template, tokenize=False, **variables
        )


def load_tokenizer(folder: Path | str) -> HFTokenizer:
    """Reads the tokenizer of a Hugging Face folder as transformers' AutoTokenizer does.

    Nothing outside the folder is read, and no code in it is run.

    Raises:
        FolderError: a file is missing, malformed, or outside the folder.
    """
    transformers = require("transformers", "tokenizers need", "lm")
    folder = Path(folder)
    path = inside(folder, "tokenizer.json")
    if not path.exists():
        raise FolderError(
            f"{path} is missing. Give a folder that has a tokenizer.json; of a "
            f'tokenizer.model transformers makes one: python -c "from transformers '
            f"import AutoTokenizer as T; T.from_pretrained('{folder}')"
            f".save_pretrained('{folder}')\"."
        )
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".jinja", ".model", ".txt"):
            inside(folder, str(file.relative_to(folder)))
    # Without a config.json there is no family whose tokenizer it could be.
    known = (folder / "config.json").exists()
    auto = transformers.AutoTokenizer if known else transformers.PreTrainedTokenizerFast
    try:
        tokenizer = auto.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        backend: Any = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        # A text that has tokens; the same ones are put around every text.
        texts = ["a", "the", "0", *backend.get_vocab(with_added_tokens=False)]
        text = next(t for t in texts if backend.encode(t, add_special_tokens=False).ids)
        probe = backend.encode(text, add_special_tokens=True)
    except Exception as error:  # transformers raises nothing narrower
        raise FolderError(
            f"the tokenizer in {folder} ({path.name} and the files beside it) cannot "
            f"be read: {one_line(error):.300}"
        ) from error
    added = probe.special_tokens_mask
    size = len(added)
    before = next((i for i in range(size) if not added[i]), size)
    after = next((i for i in range(size, before, -1) if not added[i - 1]), before)
    ids = probe.ids
    return HFTokenizer(tokenizer, tuple(ids[:before]), tuple(ids[after:]))


def copy_tokenizer(
    source: Path | str, target: Path | str, *, template: bool | str = True
) -> None:
    """Writes a folder's tokenizer into another folder.

    `template` is as for `encoding_config`: True keeps that of the tokenizer, False leaves
    it out, and a text takes its place.

    Raises:
        FolderError: there is no tokenizer that can be read.
    """
    tokenizer = load_tokenizer(source).tokenizer
    if template is not True:
        tokenizer.chat_template = template or None
    tokenizer.save_pretrained(str(target))
