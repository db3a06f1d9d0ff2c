"""The command `rljax generate`: a file of prompts, completed by a language model."""

import dataclasses
import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg, create_mutex_group

from rljax.commands.launch import check_counts, check_seed, use_compile_cache
from rljax.commands.template import date_before, read_template, yes_or_no
from rljax.numerics.processes import agree
from rljax.training.distributed import check_same_everywhere
from rljax.training.files import FolderError, RunError

if TYPE_CHECKING:
    from rljax.rlhf.generation import Truncation

_BOS = create_mutex_group(required=False, title="bos")
_BEGIN = arg(help_behavior_hint="(default: as the tokenizer, without a template)")
_TODAY = arg(metavar="YYYY-MM-DD", help_behavior_hint="(default: today)")
_ALL = "(default: all)"
_COUNT = arg(metavar="INT", help_behavior_hint=_ALL)
_SHARE = arg(metavar="FLOAT", help_behavior_hint=_ALL)
_FAST = arg(metavar="INT", help_behavior_hint="(default: what is fast here)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate:
    """Completes a file of prompts with a language model.

    Every completion is written as a line of JSON, with its tokens, which `rljax score`
    reads. The same command goes on where it was stopped. The last line of stdout is the
    figures as JSON.
    """

    model: Path
    """Folder of the language model, as transformers writes it."""
    input: Path
    """Prompts: JSON lines (.gz too), a JSON array or Parquet; - is stdin."""
    output: Path
    """The file to write; while unfinished it is called OUTPUT.part."""
    max_new_tokens: int
    """Longest completion, in tokens."""
    num_completions: int = 1
    """Completions of each prompt."""
    temperature: float = 1.0
    """Logits are divided by it: below 1, likely tokens become likelier."""
    top_k: Annotated[int | None, _COUNT] = None
    """Draw from so many of the most probable tokens."""
    top_p: Annotated[float | None, _SHARE] = None
    """Draw from as few of them as have this probability together."""
    min_p: Annotated[float | None, _SHARE] = None
    """Draw from those that have this share of the largest probability."""
    greedy: Annotated[bool, FlagCreatePairsOff] = False
    """Take the most probable token each time, rather than draw one."""
    seed: int = 0
    """What is drawn follows from it, the number of the line, and the completion's."""
    stop: UseAppendAction[tuple[str, ...]] = ()
    """A token that ends a completion, as text, beside the model's; may be repeated."""
    template: Annotated[str, arg(metavar="auto|none|FILE")] = "auto"
    """The chat template: the tokenizer's, if it has one; none; or a Jinja file."""
    date: Annotated[datetime.date | None, _TODAY] = None
    """What the chat template takes for today; OUTPUT keeps that of its beginning."""
    bos: Annotated[bool, FlagCreatePairsOff, _BOS, _BEGIN] = False
    """Begin every prompt with the BOS token."""
    no_bos: Annotated[bool, FlagCreatePairsOff, _BOS] = False
    """Add no BOS token."""
    prompt_column: str = "prompt"
    """What the column of prompts is called."""
    batch_size: Annotated[int | None, _FAST] = None
    """Completions that are written together; lower it if memory runs out."""
    window: Annotated[int | None, _FAST] = None
    """Those that are sorted by length together; progress is saved after each window."""
    error_rows: Annotated[bool, FlagCreatePairsOff] = False
    """Where a prompt cannot be completed, write the reason and go on, rather than stop."""
    distributed: str | None = None
    """One of several processes: auto (SLURM, Open MPI, Cloud TPU), or HOST:PORT,N,I, the
    first one's address, how many there are, and which this one is. All share OUTPUT."""
    connect_timeout: int = 50
    """Seconds to wait for the other processes."""

    def __post_init__(self):
        counts = ("max_new_tokens", "num_completions", "batch_size", "window")
        check_counts(self, *(n for n in counts if getattr(self, n) is not None))
        check_seed(self.seed)
        self.truncation()
        if not self.temperature > 0:
            raise ValueError(
                f"temperature must be above 0, got {self.temperature}. Raise it, or give "
                f"--greedy."
            )
        if self.greedy and self.num_completions > 1:
            raise ValueError(
                f"num_completions must be 1 with --greedy, whose completions are all the "
                f"same, got {self.num_completions}. Leave one of the two out."
            )

    def truncation(self) -> "Truncation":
        """Which tokens may be drawn."""
        from rljax.rlhf.generation import Truncation

        return Truncation(top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)

    def settings(self) -> dict[str, Any]:
        """What the completions follow from, besides the model and the rows."""
        template = self.template if self.template in ("auto", "none") else "file"
        same = (
            "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "greedy", "seed",
            "batch_size", "window", "prompt_column",
        )  # fmt: skip
        date = self.date or date_before(self.output) or datetime.date.today()
        return {name: getattr(self, name) for name in same} | {
            "stop": list(self.stop),
            "template": template,
            "date": agree(str(date)),
            "bos": yes_or_no(self.bos, self.no_bos),
        }


def generate(command: Generate) -> dict[str, Any]:
    """Completes a file, and returns the figures of `generate_file`."""
    from rljax.rlhf.data import Columns
    from rljax.rlhf.generation import Generator, generate_file
    from rljax.rlhf.row_files import check_paths

    flags = {name: str(value) for name, value in vars(command).items()}
    check_same_everywhere({"flags": flags | {"distributed": ""}})
    check_paths(command.input, command.output)
    use_compile_cache()
    # transformers would advise to install PyTorch.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    settings = command.settings()
    try:
        generator = Generator.load(
            command.model,
            max_new_tokens=command.max_new_tokens,
            stop=command.stop,
            temperature=command.temperature,
            truncation=command.truncation(),
            greedy=command.greedy,
            template=read_template(command.template),
            date=datetime.date.fromisoformat(settings["date"]),
            bos=settings["bos"],
            seed=command.seed,
            batch_size=command.batch_size,
            window=command.window,
        )
    except OSError as error:
        raise RunError(f"{error}. Give a --model that can be read.") from error
    except FolderError as error:
        raise RunError(str(error)) from error
    result = generate_file(
        generator,
        command.input,
        command.output,
        settings=settings,
        num_completions=command.num_completions,
        error_rows=command.error_rows,
        columns=Columns(prompt=command.prompt_column),
    )
    if result["rows"] and result["errors"] == result["rows"]:
        raise RunError(
            f"no prompt could be completed: {command.output} has the reason of each."
        )
    return result
