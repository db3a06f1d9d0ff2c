"""Direct alignment: preferences change the language model itself, without a reward model.

One algorithm, `direct_alignment`, whose loss is named in its configuration: DPO and its
kin. May import `rljax.rlhf.training` and what lies below it.
"""

from rljax.rlhf.direct.direct_alignment import (
    DirectConfig,
    DirectHyperparams,
    DirectTask,
    direct_alignment,
)
from rljax.rlhf.direct.reference import implicit_rewards, with_reference

__all__ = [
    "DirectConfig", "DirectHyperparams", "DirectTask", "direct_alignment",
    "implicit_rewards", "with_reference",
]  # fmt: skip
