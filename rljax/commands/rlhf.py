"""The command `rljax rlhf`: a language model, trained by a reward model on prompts."""

import dataclasses
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, arg

from rljax.commands.launch import check_counts, check_seed
from rljax.commands.template import read_template
from rljax.commands.training import (
    choose_trainable,
    files_sha256,
    folder_sha256,
    run_command,
)
from rljax.training.files import RunError
from rljax.training.run_folder import RunFolder, RunOptions

if TYPE_CHECKING:
    from rljax.rlhf.policy import PolicyConfig, PolicyHyperparams

_TODAY = arg(metavar="YYYY-MM-DD", help_behavior_hint="(default: today)")
_BY_SIZE = arg(metavar="FLOAT", help_behavior_hint="(default: by what is trained)")
_BY_RECIPE = arg(metavar="FLOAT", help_behavior_hint="(default: the recipe's)")
_HELD_OUT = arg(metavar="FILE", help_behavior_hint="(default: a tenth of --prompts)")
_ONE = arg(metavar="NAME", help_behavior_hint="(default: the model's only score)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rlhf:
    """Trains a language model to give completions that a reward model scores highly.

    OUT/model is then a folder for `rljax generate` and transformers, OUT/rlhf.html a page
    with curves, and completions before and after. The same command goes on where it was
    stopped. The last line of stdout is the figures as JSON.
    """

    policy: Path
    """Folder of the language model, as transformers writes it; it is the reference, too."""
    reward: Path
    """Folder of the reward model, as transformers or `rljax reward` writes it."""
    prompts: Path
    """Prompts to learn from: JSON lines (.gz too), a JSON array or Parquet."""
    eval: Annotated[Path | None, _HELD_OUT] = None
    """Prompts to compare the two policies by."""
    recipe: Literal[
        "grpo", "rloo", "dr_grpo", "reinforce", "ppo", "dapo", "gspo", "cispo"
    ] = "grpo"
    """How the policy is optimized."""
    updates: int = 200
    """Updates of the run."""
    num_prompts: int = 8
    """Prompts of an update."""
    group_size: int = 8
    """Completions of each."""
    max_new_tokens: int = 64
    """Longest completion, in tokens."""
    beta: Annotated[float | None, _BY_RECIPE] = None
    """Weight of the divergence from the policy before training."""
    learning_rate: Annotated[float | None, _BY_SIZE] = None
    """AdamW's step size; it rises over a tenth of the run, then falls to 0."""
    temperature: float = 1.0
    """Logits are divided by it, in sampling and in every log-probability."""
    train: Literal["all", "last", "lora"] = "all"
    """Train all of the policy, its last blocks, or low-rank terms."""
    last_layers: int = 4
    """Blocks that --train last trains."""
    lora_rank: int = 16
    """Rank of the terms that --train lora trains; they weigh twice this over it."""
    num_epochs: int = 1
    """Passes over an update's completions; ppo usually takes 4."""
    num_minibatches: int = 1
    """Gradient steps of a pass."""
    num_microbatches: int = 1
    """Parts of a minibatch, computed one after another: more need less memory."""
    stop_penalty: float = 1.0
    """Subtracted from the reward of a completion that did not end by itself."""
    template: Annotated[str, arg(metavar="auto|none|FILE")] = "auto"
    """The policy's chat template: the tokenizer's, if it has one; none; or a Jinja file.
    The reward model reads by its tokenizer's."""
    date: Annotated[datetime.date | None, _TODAY] = None
    """What the chat template takes for today."""
    prompt_column: str = "prompt"
    """What the column of prompts is called."""
    label: Annotated[str | None, _ONE] = None
    """Which score to take of a reward model that gives several, by name or number."""
    score_texts: bool = False
    """Score texts also where the reward model could read the policy's tokens, which is
    faster, but not the same where a token has no text."""
    bfloat16: bool = False
    """Multiply the policy's matrices in bfloat16; parameters stay float32."""
    remat: bool = False
    """Compute blocks again for the gradient: slower, with less memory."""
    skip_bad: bool = False
    """Pass over prompts that cannot be read, or are too long, rather than stop."""
    seed: int = 0
    """Of what is held out, the order of the prompts, and all that is sampled."""
    fsdp: int = dataclasses.field(default=1, metadata={"setting": False})
    """Devices that share one copy of the parameters and the optimizer's state."""
    run: Annotated[RunOptions, OmitArgPrefixes] = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(
            self, "updates", "num_prompts", "group_size", "max_new_tokens", "num_epochs",
            "num_minibatches", "num_microbatches", "last_layers", "lora_rank", "fsdp",
        )  # fmt: skip
        if self.run.out is None:
            raise ValueError("out must be a folder, got none. Name one with --out.")

    def method(self) -> "tuple[PolicyConfig, PolicyHyperparams]":
        """Returns sizes and numbers, but for the step sizes and what ends a completion.

        Raises:
            ValueError: two flags do not go together, or a number is out of its range.
        """
        from rljax.rlhf import policy

        recipes = {
            "grpo": policy.grpo, "rloo": policy.rloo, "dr_grpo": policy.dr_grpo,
            "reinforce": policy.reinforce, "ppo": policy.ppo, "dapo": policy.dapo,
            "gspo": policy.gspo, "cispo": policy.cispo,
        }  # fmt: skip
        method, hyperparams = recipes[self.recipe]()
        if self.beta is not None and method.kl == "none":
            raise ValueError(
                f"beta needs a recipe with a divergence, got {self.beta} and "
                f"{self.recipe}. Choose grpo, rloo, reinforce or ppo, or leave it out."
            )
        given = {"beta": self.beta, "learning_rate": self.learning_rate}
        hyperparams = hyperparams.replace(
            temperature=self.temperature,
            stop_penalty=self.stop_penalty,
            **{name: value for name, value in given.items() if value is not None},
        )
        policy.check_hyperparams(hyperparams)
        config = policy.PolicyConfig(
            method=method,
            num_prompts=self.num_prompts,
            group_size=self.group_size,
            max_new_tokens=self.max_new_tokens,
            num_epochs=self.num_epochs,
            num_minibatches=self.num_minibatches,
            num_microbatches=self.num_microbatches,
            trainable=choose_trainable(self.train, self.last_layers, self.lora_rank),
        )
        return config, hyperparams


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What the result follows from: flags, and what is in the files that they name."""

    flags: Rlhf
    policy_sha256: str
    reward_sha256: str
    prompts_sha256: str
    eval_sha256: str | None
    template: bool | str


def rlhf(command: Rlhf) -> dict[str, Any]:
    """Trains, or goes on, and returns the headline figures."""
    try:
        settings = _Settings(
            command,
            folder_sha256(command.policy),
            folder_sha256(command.reward),
            files_sha256([command.prompts]),
            files_sha256([command.eval]) if command.eval else None,
            read_template(command.template),
        )
    except OSError as error:
        raise RunError(
            f"{error}. Give a --policy, --reward, --prompts and --eval that can be read."
        ) from error
    command.method()  # refuses before anything is written

    def work(folder: RunFolder) -> dict[str, Any]:
        from rljax.commands.rlhf_run import train_and_compare

        return train_and_compare(command, folder)

    return run_command("rlhf", settings, command.run, work)
