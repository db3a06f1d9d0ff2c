"""Language models and reward models, as Flax modules.

May import `rljax.rlhf.data`.
"""

from rljax.rlhf.models.block import KeyValues
from rljax.rlhf.models.config import Lora, TransformerConfig
from rljax.rlhf.models.reward_model import (
    RewardModel,
    keep_first_layers,
    stack_ensemble,
)
from rljax.rlhf.models.rope import Rope
from rljax.rlhf.models.trainable import Everything, HeadOnly, LastLayers, LoraOnly
from rljax.rlhf.models.transformer import Transformer

__all__ = [
    "Everything", "HeadOnly", "KeyValues", "LastLayers", "Lora", "LoraOnly", "RewardModel", "Rope", "Transformer", "TransformerConfig",
    "keep_first_layers", "stack_ensemble",
]  # fmt: skip
