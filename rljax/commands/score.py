"""The command `rljax score`: a file of completions, scored with a reward model."""

import dataclasses
import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, arg, create_mutex_group

from rljax.commands.launch import check_counts, use_compile_cache
from rljax.commands.template import date_before, read_template, yes_or_no
from rljax.numerics.precision import MatmulPrecision, use_matmul_precision
from rljax.numerics.processes import agree
from rljax.training.distributed import check_same_everywhere
from rljax.training.files import FolderError, RunError

if TYPE_CHECKING:
    from rljax.rlhf.data.forms import Columns

_BOS, _EOS = (create_mutex_group(required=False, title=t) for t in ("bos", "eos"))
_BEGIN = arg(help_behavior_hint="(default: as the tokenizer, without a template)")
_END = arg(help_behavior_hint="(default: yes, without a template)")
_TODAY = arg(metavar="YYYY-MM-DD", help_behavior_hint="(default: today)")
_ONE = arg(metavar="NAME", help_behavior_hint="(default: the model's only score)")
_CONTEXT = arg(metavar="INT", help_behavior_hint="(default: the model's context)")
_FAST = arg(metavar="INT", help_behavior_hint="(default: what is fast here)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Scores a file of prompts and completions with a reward model.

    Every row is written as a line of JSON, with its score. The same command goes on where
    it was stopped. The last line of stdout is the figures as JSON.
    """

    model: Path
    """Folder of the reward model, as transformers writes it."""
    input: Path
    """Rows to score: JSON lines (.gz too), a JSON array or Parquet; - is stdin."""
    output: Path
    """The file to write; while unfinished it is called OUTPUT.part."""
    template: Annotated[str, arg(metavar="auto|none|FILE")] = "auto"
    """The chat template: the tokenizer's, if it has one; none; or a Jinja file."""
    date: Annotated[datetime.date | None, _TODAY] = None
    """What the chat template takes for today; OUTPUT keeps that of its beginning."""
    label: Annotated[str | None, _ONE] = None
    """Which score to take of a model that gives several, by name or number."""
    pooling: Literal["transformers", "last"] = "transformers"
    """Read the score at the last token that is not the model's padding, or at the last."""
    bos: Annotated[bool, FlagCreatePairsOff, _BOS, _BEGIN] = False
    """Begin every text with the BOS token."""
    no_bos: Annotated[bool, FlagCreatePairsOff, _BOS] = False
    """Add no BOS token."""
    eos: Annotated[bool, FlagCreatePairsOff, _EOS, _END] = False
    """End every text with the EOS token, as TRL's RewardTrainer trains."""
    no_eos: Annotated[bool, FlagCreatePairsOff, _EOS] = False
    """Add no EOS token."""
    max_length: Annotated[int | None, _CONTEXT] = None
    """Longest text, in tokens."""
    truncate: Literal["prompt", "completion", "error"] = "prompt"
    """Longer texts lose the prompt's beginning, or the completion's end, or are errors."""
    allow_empty: bool = False
    """Score empty completions, too."""
    prompt_column: str = "prompt"
    """What the column of prompts is called."""
    completion_column: str = "completion"
    """What the column of completions is called."""
    chosen_column: str = "chosen"
    """What the column of the better completions is called."""
    rejected_column: str = "rejected"
    """What the column of the worse completions is called."""
    messages_column: str = "messages"
    """What the column of whole chats is called."""
    max_tokens: Annotated[int | None, _FAST] = None
    """Tokens in a batch, padding included; lower it if memory runs out."""
    window: Annotated[int | None, _FAST] = None
    """Pairs that are sorted by length together; progress is saved after each window."""
    error_rows: bool = False
    """Where a row cannot be scored, write the reason and go on, rather than stop."""
    field: str = "score"
    """What the score is called; a row must not have such a field yet."""
    matmul_precision: MatmulPrecision = "highest"
    """Of products of float32. Less is faster on a GPU or TPU, and scores are less exact."""
    distributed: str | None = None
    """One of several processes: auto (SLURM, Open MPI, Cloud TPU), or HOST:PORT,N,I, the
    first one's address, how many there are, and which this one is. All share OUTPUT."""
    connect_timeout: int = 50
    """Seconds to wait for the other processes."""

    def __post_init__(self):
        counts = ("max_length", "max_tokens", "window")
        check_counts(self, *(n for n in counts if getattr(self, n) is not None))
        if not self.field:
            raise ValueError("field must be a name, got none. Give one with --field.")

    def settings(self) -> dict[str, Any]:
        """What the scores follow from, besides the model and the rows."""
        template = self.template if self.template in ("auto", "none") else "file"
        same = ("label", "pooling", "max_length", "truncate", "allow_empty")
        date = self.date or date_before(self.output) or datetime.date.today()
        return {name: getattr(self, name) for name in same} | {
            "template": template,
            "date": agree(str(date)),
            "bos": yes_or_no(self.bos, self.no_bos),
            "eos": yes_or_no(self.eos, self.no_eos),
        }

    def columns(self) -> "Columns":
        """What the columns are called."""
        from rljax.rlhf.data.forms import Columns

        names = [field.name for field in dataclasses.fields(Columns)]
        return Columns(**{name: getattr(self, f"{name}_column") for name in names})


def score(command: Score) -> dict[str, Any]:
    """Scores a file, and returns the figures of `score_file`."""
    from rljax.rlhf.data.encoding import EncodingError
    from rljax.rlhf.row_files import check_paths
    from rljax.rlhf.scoring.score_file import score_file
    from rljax.rlhf.scoring.scorer import Scorer

    flags = {name: str(value) for name, value in vars(command).items()}
    check_same_everywhere({"flags": flags | {"distributed": ""}})
    check_paths(command.input, command.output)
    use_compile_cache()
    # transformers would advise to install PyTorch.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    use_matmul_precision(command.matmul_precision)
    precision = {"matmul_precision": command.matmul_precision}
    if command.matmul_precision == "highest":
        precision = {}  # as what was begun before there was a choice
    settings = command.settings()
    how = settings | {
        "template": read_template(command.template),
        "date": datetime.date.fromisoformat(settings["date"]),
        "max_tokens": command.max_tokens,
        "window": command.window,
    }
    try:
        scorer = Scorer.load(command.model, **how)
    except OSError as error:
        raise RunError(f"{error}. Give a --model that can be read.") from error
    except (FolderError, EncodingError) as error:
        raise RunError(str(error)) from error
    result = score_file(
        scorer,
        command.input,
        command.output,
        settings=settings | precision,
        error_rows=command.error_rows,
        field=command.field,
        columns=command.columns(),
    )
    if result["rows"] and result["errors"] == result["rows"]:
        raise RunError(
            f"no row could be scored: {command.output} has the reason of each."
        )
    return result
