"""What the command line of InstructGPT's steps can change, and the trainings' sizes."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

from rljax.commands.fetch import cache_folder
from rljax.commands.launch import check_counts, check_seed
from rljax.numerics.validation import check_ranges
from rljax.rlhf import (
    LastLayers,
    Lora,
    LoraOnly,
    SFTConfig,
    SFTHyperparams,
    policy,
)
from rljax.rlhf.recipes import Training
from rljax.rlhf.training import usual_lengths
from rljax.training.run_folder import RunOptions

BATCH_SIZE = 16  # sentences of an update of SFT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    model: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Folder of a language model; by default where fetch_smollm2.py puts it."""
    data: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Rated sentences; by default where fetch_ratings.py puts movies."""
    seed: int = 0
    """Seeds everything; run i of several depends on it and i only."""
    num_seeds: int = 1
    """Independent runs, one after another."""
    recipe: Literal["rloo", "ppo"] = "rloo"
    """How the policy is optimized."""
    train: Literal["last", "lora"] = "last"
    """What is trained: the last blocks, or low-rank terms in all of them."""
    last_layers: int = 4
    """How many are the last blocks. Policy, reference and reward share those before them,
    of which the reward is made in either case."""
    lora_rank: int = 16
    """Rank of the low-rank terms."""
    num_sentences: int = 800
    """Sentences to learn to write from."""
    num_rated: int = 1200
    """Other sentences, to learn the reward from."""
    num_tested: int = 400
    """Sentences that the reward is tested on."""
    num_pairs: int = 4000
    """Pairs of sentences that the reward learns from."""
    num_heads: int = 5
    """Heads of the reward's ensemble."""
    uncertainty_penalty: float = 0.0
    """Times the heads' standard deviation, which is subtracted from their mean."""
    sft_learning_rate: float = 2e-4
    """AdamW's in step 1, which falls to 0."""
    num_updates: int = 24
    """Updates of the policy."""
    num_prompts: int = 8
    """Prompts of an update."""
    group_size: int = 4
    """Completions of each."""
    max_new_tokens: int = 24
    """Tokens of a completion, at most."""
    temperature: float = 0.7
    """Of all sampling, and of every log-probability, as Ziegler et al. (2019) have it."""
    learning_rate: float = 4e-4
    """AdamW's in step 3."""
    beta: float = 0.08
    """Weight of the divergence, in standard deviations of the reward for each nat."""
    stop_penalty: float = 0.5
    """Subtracted from the reward of a completion that has no end."""
    num_held_out: int = 256
    """Prompts of other templates, on which policies are compared."""
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(
            self, "num_seeds", "last_layers", "num_rated", "num_pairs", "num_heads",
            "lora_rank", "num_updates",
        )  # fmt: skip
        check_counts(self, "num_sentences", least=BATCH_SIZE)
        check_counts(self, "num_tested", "num_held_out", least=2)
        check_ranges(self, {"uncertainty_penalty": (0.0, 1e6)})
        self.policy_training((), ())

    @property
    def model_folder(self) -> Path:
        """Where the pretrained model is."""
        return self.model or cache_folder() / "SmolLM2-135M-Instruct"

    @property
    def data_file(self) -> Path:
        """Where the rated sentences are."""
        return self.data or cache_folder() / "ratings" / "movies.jsonl"

    @property
    def trainable(self) -> LastLayers | LoraOnly:
        """What of the model is trained, in steps 1 and 3."""
        if self.train == "lora":
            return LoraOnly(Lora(rank=self.lora_rank))
        return LastLayers(self.last_layers)

    def sft_training(self, longest: int) -> Training:
        """Returns how the model learns to write: from every sentence once.

        Args:
            longest: tokens of the longest prompt with its sentence.
        """
        num_updates = self.num_sentences // BATCH_SIZE
        return Training(
            config=SFTConfig(
                batch_size=BATCH_SIZE,
                num_microbatches=4,
                lengths=usual_lengths(longest, 24),
                trainable=self.trainable,
            ),
            hyperparams=SFTHyperparams(
                learning_rate=self.sft_learning_rate,
                warmup_updates=num_updates // 10,
                decay_updates=num_updates,
            ),
            num_updates=num_updates,
            improves="log_likelihood",
        )

    def policy_training(
        self, stop_ids: tuple[int, ...], question: tuple[int, ...]
    ) -> Training:
        """Returns how the policy is optimized.

        Args:
            stop_ids: tokens that end a completion.
            question: tokens that the reward reads after it.

        Raises:
            ValueError: a size or a number is out of its range.
        """
        if self.recipe == "ppo":
            method, hyperparams = policy.ppo()
            # Another model of this size would be slow: a head reads the policy's states.
            method = dataclasses.replace(method, critic="head")
            hyperparams = hyperparams.replace(
                critic_learning_rate=1e-3, kl_target=math.inf
            )
        else:
            method, hyperparams = policy.rloo()
        hyperparams = hyperparams.replace(
            learning_rate=self.learning_rate,
            warmup_updates=2,
            decay_updates=self.num_updates,
            temperature=self.temperature,
            beta=self.beta,
            stop_penalty=self.stop_penalty,
        )
        policy.check_hyperparams(hyperparams)
        return Training(
            config=policy.PolicyConfig(
                method=method,
                num_prompts=self.num_prompts,
                group_size=self.group_size,
                max_new_tokens=self.max_new_tokens,
                stop_ids=stop_ids,
                trainable=self.trainable,
                question=() if self.train == "lora" else question,
            ),
            hyperparams=hyperparams,
            num_updates=self.num_updates,
            improves="gold",
        )
