"""The console command `rljax`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, arg, create_mutex_group

from rljax.commands.launch import check_counts, exit_on_errors, use_compile_cache
from rljax.training.files import FolderError, RunError, dumps

_BOS, _EOS = (create_mutex_group(required=False, title=t) for t in ("bos", "eos"))
_TOKENIZERS = arg(help_behavior_hint="(default: what the model's tokenizer does)")
_CONTEXT = arg(metavar="INT", help_behavior_hint="(default: the model's context)")
_FAST = arg(metavar="INT", help_behavior_hint="(default: what is fast here)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Scores a JSONL file of prompts and completions with a reward model.

    Every row is written as it was, with its score. The same command goes on where it
    was stopped. The last line of stdout is the figures as JSON.
    """

    model: Path
    """Folder of the reward model, as transformers writes it."""
    input: Path
    """Rows to score: prompt and completion, or messages, or prompt, chosen and rejected."""
    output: Path
    """The file to write; while unfinished it is called OUTPUT.part."""
    template: Literal["auto", "none"] = "auto"
    """Whether to use the tokenizer's chat template, if it has one."""
    bos: Annotated[bool, FlagCreatePairsOff, _BOS, _TOKENIZERS] = False
    """Begin every text with the BOS token."""
    no_bos: Annotated[bool, FlagCreatePairsOff, _BOS, _TOKENIZERS] = False
    """Begin no text with it."""
    eos: Annotated[bool, FlagCreatePairsOff, _EOS, _TOKENIZERS] = False
    """End every text with the EOS token."""
    no_eos: Annotated[bool, FlagCreatePairsOff, _EOS, _TOKENIZERS] = False
    """End no text with it."""
    max_length: Annotated[int | None, _CONTEXT] = None
    """Longest text, in tokens; longer ones lose the beginning of the prompt."""
    max_tokens: Annotated[int | None, _FAST] = None
    """Tokens in a batch, padding included; lower it if memory runs out."""
    window: Annotated[int | None, _FAST] = None
    """Pairs that are sorted by length together; progress is saved after each window."""
    error_rows: bool = False
    """Write why where a row cannot be scored, and go on, rather than stop."""
    field: str = "score"
    """What the score is called; a row must not have such a field yet."""

    def __post_init__(self):
        counts = ("max_length", "max_tokens", "window")
        check_counts(self, *(n for n in counts if getattr(self, n) is not None))
        if not self.field:
            raise ValueError("field must be a name, got none. Give one with --field.")

    def settings(self) -> dict[str, Any]:
        """What the scores follow from, besides the model and the rows."""
        return {
            "template": self.template,
            "bos": _choice(self.bos, self.no_bos),
            "eos": _choice(self.eos, self.no_eos),
            "max_length": self.max_length,
        }


def score(command: Score) -> dict[str, Any]:
    """Scores a file, and returns the figures of `score_file`."""
    from rljax.rlhf.scoring.score_file import check_paths, score_file
    from rljax.rlhf.scoring.scorer import Scorer

    check_paths(command.input, command.output)
    use_compile_cache()
    try:
        how = command.settings() | {"template": command.template == "auto"}
        how |= {"max_tokens": command.max_tokens, "window": command.window}
        scorer = Scorer.load(command.model, **how)
    except OSError as error:
        raise RunError(f"{error}. Give a --model that can be read.") from error
    except FolderError as error:
        raise RunError(str(error)) from error
    return score_file(
        scorer,
        command.input,
        command.output,
        settings=command.settings(),
        error_rows=command.error_rows,
        field=command.field,
    )


def main() -> None:
    """Runs the command of the command line, with the exit status of `launch`."""
    app = tyro.extras.SubcommandApp()
    app.command(Score, name="score")  # type: ignore[call-overload]
    with exit_on_errors(
        disk="Make room, or make it writable; the same command goes on.",
        memory="Lower --max-tokens; the same command goes on.",
    ):
        command = app.cli(
            prog="rljax", description="Reinforcement learning with JAX, as commands."
        )
        print(dumps(score(command)), flush=True)  # noqa: T201


def _choice(yes: bool, no: bool) -> bool | None:
    return True if yes else False if no else None


if __name__ == "__main__":
    main()
