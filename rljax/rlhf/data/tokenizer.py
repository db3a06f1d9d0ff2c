"""Text to token ids: bytes, or a Hugging Face `tokenizer.json`."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rljax.extras import require
from rljax.training.files import FolderError, inside, json_object


class Tokenizer(Protocol):
    """Turns text into token ids.

    Attributes:
        vocab_size: ids lie in [0, vocab_size).
        bos_id: begins a text, or None; written `bos_token`, or "".
        eos_id: ends a text, or None; written `eos_token`, or "".
        adds_bos: whether text without a template begins with BOS.
        chat_template: Jinja source that writes chat messages as text, or None.
        fingerprint: differs between tokenizers that give a text different ids.
    """

    @property
    def vocab_size(self) -> int: ...  # noqa: D102
    @property
    def bos_id(self) -> int | None: ...  # noqa: D102
    @property
    def eos_id(self) -> int | None: ...  # noqa: D102
    @property
    def adds_bos(self) -> bool: ...  # noqa: D102
    @property
    def chat_template(self) -> str | None: ...  # noqa: D102
    @property
    def bos_token(self) -> str: ...  # noqa: D102
    @property
    def eos_token(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns ids of each text, without special tokens added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, without special tokens."""


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes as ids 0 to 255, BOS 256 and EOS 257: no file, no training.

    Example:
        >>> ByteTokenizer().encode(["hi"])
        [[104, 105]]
    """

    vocab_size: int = dataclasses.field(default=258, init=False)
    bos_id: int | None = dataclasses.field(default=256, init=False)
    eos_id: int | None = dataclasses.field(default=257, init=False)
    adds_bos: bool = dataclasses.field(default=False, init=False)
    chat_template: str | None = dataclasses.field(default=None, init=False)
    bos_token: str = dataclasses.field(default="", init=False)
    eos_token: str = dataclasses.field(default="", init=False)
    fingerprint: str = dataclasses.field(default="bytes", init=False)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        return [list(text.encode()) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become the replacement character."""
        return bytes(i for i in ids if i < 256).decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class HFTokenizer:
    """A `tokenizer.json` with the special tokens and the chat template of its folder."""

    backend: Any
    bos_id: int | None
    eos_id: int | None
    adds_bos: bool
    chat_template: str | None
    bos_token: str
    eos_token: str

    @property
    def vocab_size(self) -> int:
        """Ids lie below this, those of added tokens too."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def fingerprint(self) -> str:
        """A hash of everything that a text's ids depend on."""
        parts = self.backend.to_str(), repr((self.bos_id, self.eos_id))
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; special tokens written in it count as such."""
        found = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return self.backend.decode(list(ids), skip_special_tokens=True)


def load_tokenizer(folder: Path | str) -> HFTokenizer:
    """Reads the tokenizer of a Hugging Face folder: JSON and a template, no code.

    Raises:
        FolderError: a file is missing, malformed, or outside the folder.
    """
    tokenizers = require("tokenizers", "tokenizer.json needs", "lm")
    folder = Path(folder)
    path = inside(folder, "tokenizer.json")
    if not path.exists():
        raise FolderError(
            f"{path} is missing. Give a folder that has a tokenizer.json."
        )
    try:
        backend: Any = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # it raises nothing narrower
        raise FolderError(f"{path} is not a tokenizer.json: {error}.") from error
    backend.no_truncation()
    backend.no_padding()
    settings = _read(folder, "special_tokens_map.json")
    settings |= _read(folder, "tokenizer_config.json")
    special: dict[str, Any] = {}
    for name in ("bos", "eos"):
        token = settings.get(f"{name}_token") or ""
        token = token.get("content", "") if isinstance(token, dict) else token
        number = backend.token_to_id(token) if token else None
        special |= {f"{name}_id": number, f"{name}_token": token}
        if token and number is None:
            raise FolderError(
                f"{name}_token in {folder} is {token!r}, which {path} does not have."
            )
    adds_bos = settings.get("add_bos_token")
    if not isinstance(adds_bos, bool):
        begun = backend.encode("a", add_special_tokens=True).ids
        adds_bos = begun[:1] == [special["bos_id"]]
    template = _template(folder, settings)
    return HFTokenizer(backend, adds_bos=adds_bos, chat_template=template, **special)


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = inside(folder, "chat_template.jinja")
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    template = _read(folder, "chat_template.json").get("chat_template", template)
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template}
        if "default" not in named:
            raise FolderError(f"chat_template in {folder} has none called default.")
        template = named["default"]
    if template is not None and not isinstance(template, str):
        raise FolderError(f"chat_template in {folder} must be text, got {template!r}.")
    return template


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = inside(folder, name)
    return json_object(path, FolderError) if path.exists() else {}
