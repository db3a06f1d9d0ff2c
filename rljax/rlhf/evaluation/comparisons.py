"""Scored comparisons on the host, the input of every figure of an evaluation."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True, eq=False)
class Comparisons:
    """N pairs of completions with their scores, in float64. Make them with `of`.

    Which of a pair stands first changes no figure, if its probability changes with it:
    the preferred ones may all stand first, or at random.

    Attributes:
        scores: `[N, 2]`, of the first completion, usually the chosen one, and the second.
        probs: `[N]`, the probability that the first is preferred: 1 for a plain pair.
        lengths: `[N, 2]`, of the completions, in any one unit; or None.
        gaps: `[N]`, by how much the ratings of the two differ, at least 0; or None.
        members: `[N, 2, M]`, scores of each member of an ensemble; or None.
    """

    scores: np.ndarray
    probs: np.ndarray
    lengths: np.ndarray | None = None
    gaps: np.ndarray | None = None
    members: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        scores: ArrayLike | None = None,
        *,
        probs: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        gaps: ArrayLike | None = None,
        members: ArrayLike | None = None,
    ) -> "Comparisons":
        """Checks the arrays, described above, and makes them float64.

        Args:
            scores: the mean of the members' unless given.
            probs: 1 unless given.
            lengths: what makes a length-only baseline possible.
            gaps: ratings' differences, of which the sign does not matter.
            members: what an ensemble's spread is computed from.

        Raises:
            ValueError: there is no pair, shapes do not fit, a number is not finite, a
                probability not in [0, 1], or nothing is preferred in any pair.
        """
        if scores is None:
            if members is None:
                raise ValueError("pairs need scores, got none. Give scores or members.")
            scores = np.asarray(members, np.float64).mean(axis=-1)
        pairs = np.asarray(scores, np.float64)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
            raise ValueError(
                f"scores must have the shape [N, 2] with at least one pair, got "
                f"{pairs.shape}. Use np.stack([chosen, rejected], axis=1)."
            )
        size = len(pairs)
        arrays = {
            "scores": pairs,
            "probs": np.ones(size) if probs is None else np.asarray(probs, np.float64),
            "lengths": None if lengths is None else np.asarray(lengths, np.float64),
            "gaps": None if gaps is None else np.abs(np.asarray(gaps, np.float64)),
            "members": None if members is None else np.asarray(members, np.float64),
        }
        result = cls(**arrays)  # type: ignore[arg-type]
        shapes = {"scores": (size, 2), "probs": (size,), "gaps": (size,)}
        shapes |= {"lengths": (size, 2), "members": (size, 2)}
        for name, shape in shapes.items():
            _check(name, arrays[name], shape)
        if not ((result.probs >= 0) & (result.probs <= 1)).all():
            wrong = result.probs[(result.probs < 0) | (result.probs > 1)][0]
            raise ValueError(
                f"probs must lie in [0, 1], got {wrong:g}. Give the probability that the "
                f"first completion of each pair is preferred."
            )
        if (result.probs == 0.5).all():
            raise ValueError(
                f"in none of {size} pairs is one completion preferred: every one of "
                f"probs is 0.5. Give pairs that were judged."
            )
        return result

    @property
    def differences(self) -> np.ndarray:
        """`[N]`: score of the first minus score of the second."""
        return self.scores[:, 0] - self.scores[:, 1]

    @property
    def credits(self) -> np.ndarray:
        """`[N]` in [0, 1]: how likely a judge agrees with the order of the scores."""
        return credits(self.differences, self.probs)

    @property
    def preferred(self) -> np.ndarray:
        """`[N]`: 1 where the first is preferred, -1 the second, 0 where neither is."""
        return np.sign(self.probs - 0.5)

    @property
    def spreads(self) -> np.ndarray | None:
        """`[N]`: standard deviation over members of the difference that they see.

        A constant that a member adds to all its scores does not matter here.
        """
        if self.members is None:
            return None
        return (self.members[:, 0] - self.members[:, 1]).std(axis=-1)

    def select(self, rows: ArrayLike) -> "Comparisons":
        """Returns some of the pairs, by mask or index, such as `gaps > 1`."""
        chosen = np.asarray(rows)
        arrays = (getattr(self, field.name) for field in dataclasses.fields(self))
        scores, probs, *rest = (None if x is None else x[chosen] for x in arrays)
        lengths, gaps, members = rest
        return Comparisons.of(
            scores, probs=probs, lengths=lengths, gaps=gaps, members=members
        )


def credits(differences: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Returns `[N]` chances that a judge agrees with an order; a tie counts one half.

    Args:
        differences: `[N]`; above 0 the first is said to be better, below 0 the second.
        probs: `[N]`, the probability that the first is preferred.
    """
    return 0.5 + np.sign(differences) * (probs - 0.5)


def most_wrong(comparisons: Comparisons, count: int) -> np.ndarray:
    """Returns the indices of the pairs that are most confidently wrong, the worst first.

    Those where the score of what is preferred is lower, by how much; `count` at most.
    """
    lead = comparisons.differences * comparisons.preferred
    order = np.argsort(lead, kind="stable")[: max(count, 0)]
    return order[lead[order] < 0]


def _check(name: str, array: np.ndarray | None, shape: tuple[int, ...]) -> None:
    """Raises a ValueError for a shape that does not fit, or a number that is none."""
    if array is None:
        return
    more = name == "members"
    fits = array.shape[: len(shape)] == shape and array.ndim == len(shape) + more
    if not fits or not array.size:
        wanted = str(list(shape))[:-1] + (", members]" if more else "]")
        raise ValueError(
            f"{name} must have the shape {wanted}, as there are {shape[0]} pairs, got "
            f"{array.shape}. Give one for each pair."
        )
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argwhere(~finite)[0][0])
        raise ValueError(
            f"{name} must be finite, got {array[~finite][0]} in pair {row}, and "
            f"{(~finite).sum()} in all. Leave out pairs that could not be scored, and "
            f"say how many."
        )
