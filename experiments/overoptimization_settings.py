"""What the command line of the study of over-optimization can change."""

import dataclasses
from pathlib import Path

from rljax.commands.launch import check_counts, check_seed
from rljax.training.run_folder import RunOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Sizes and numbers; all parts of the study read the same ones."""

    seed: int = 0
    """Of everything."""
    num_seeds: int = 3
    """Proxies of each number of pairs that a policy is optimized for."""
    data: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Rated texts; by default the movies of fetch_ratings.py, which are fetched."""
    vocab_size: int = 1024
    """Tokens of the language, its most frequent words."""
    width: int = 64
    """Of the policy and of the judge of perplexity, which have two blocks."""
    pretraining_updates: int = 1000
    """Updates of each of these two, of 32 sentences."""
    num_preferences: tuple[int, ...] = (500, 2000, 8000)
    """Pairs of completions that reward models learn from, ascending."""
    temperature: float = 0.5
    """The judge prefers one to another with probability sigmoid(difference / this)."""
    num_members: int = 3
    """Reward models of each number of pairs; those of the middle one are the ensemble."""
    penalty: float = 2.0
    """Weight of the standard deviation of an ensemble's members."""
    num_epochs: int = 3
    """Times that a reward model learns from each pair, 32 in an update."""
    reward_learning_rate: float = 2e-3
    """AdamW's, which falls to 0."""
    num_tested: int = 500
    """Pairs of completions that its accuracy is measured on."""
    num_prompts: int = 256
    """Prompts that no model has learned from, on which everything is measured."""
    best_of: int = 64
    """Completions of each of them, of which proxies choose the best."""
    num_updates: int = 120
    """Updates of each policy."""
    num_samples: int = 64
    """Completions of an update, eight of each prompt."""
    learning_rate: float = 1e-3
    """AdamW's for the policy, which is constant."""
    beta: float = 0.0
    """Weight of the divergence from the reference in the reward."""
    num_evaluations: int = 20
    """Times that a policy is measured."""
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(
            self, "num_seeds", "width", "pretraining_updates", "num_epochs",
            "num_tested", "num_prompts", "num_updates",
            "num_evaluations",
        )  # fmt: skip
        check_counts(self, "num_members", least=max(2, self.num_seeds))
        check_counts(self, "best_of", least=2)
        check_counts(self, "vocab_size", least=2)
        if self.num_samples < 1 or self.num_samples % GROUP_SIZE:
            raise ValueError(
                f"num_samples must be a multiple of {GROUP_SIZE}, got {self.num_samples}. "
                f"Change it."
            )
        if not self.temperature > 0:
            raise ValueError(
                f"temperature must be above 0, got {self.temperature}. Raise it."
            )
        counts = self.num_preferences
        if not counts or list(counts) != sorted(set(counts)) or counts[0] < BATCH_SIZE:
            raise ValueError(
                f"num_preferences must be at least {BATCH_SIZE} and ascend, got {counts}. "
                f"Sort them, or raise the first."
            )


BATCH_SIZE = 32  # rows of an update of a language model or a reward model
GROUP_SIZE = 8  # completions of a prompt in an update of a policy
ROWS_AT_ONCE = 128  # completions that are drawn or scored in one call
