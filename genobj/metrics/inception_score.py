"""Inception score exp(E KL(p(y|x) || p(y))) (Salimans et al., 2016, arXiv 1606.03498)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from genobj.metrics.features import FeatureMetric, Need, Seen

SHUFFLE = 2020
"""Seed of torch-fidelity's shuffle."""


class InceptionScore(FeatureMetric):
    """Inception score, on Inception's logits without bias: mean and standard deviation over splits of the samples."""

    citations: ClassVar[tuple[str, ...]] = ("salimans2016improved",)
    title: ClassVar[str] = "Inception score"
    parts: ClassVar[Mapping[str, str]] = MappingProxyType({"std": "Inception score, spread of splits"})
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    compares: ClassVar[bool] = False
    inception: ClassVar[bool] = True

    splits: Annotated[int, Field(gt=0)] = 10
    """Splits of equal size; of 50,000 samples ten are ADM's splits of 5,000."""
    order: Literal["sequential", "shuffled"] = "sequential"
    """sequential: splits of samples as they were generated (ADM); shuffled: torch-fidelity's permutation first."""

    def too_few(self, samples: int, reference: int | None) -> str | None:
        """Every split needs a sample."""
        if samples >= self.splits:
            return None
        return f"an Inception score of {self.splits} splits needs as many samples, got {samples}; type splits=1"

    def values(self, samples: Seen, reference: Seen, seed: int) -> dict[str, float]:
        """Mean and population standard deviation over the splits."""
        assert samples.logits is not None
        mean, std = inception_score(samples.logits, self.splits, shuffle=self.order == "shuffled")
        return {"": mean, "std": std}


def inception_score(logits: Float[Tensor, "n labels"], splits: int, *, shuffle: bool) -> tuple[float, float]:
    """Mean and population standard deviation of exp(mean KL) over contiguous splits, float64.

    ValueError if there are fewer samples than splits.
    """
    count = len(logits)
    if problem := InceptionScore(splits=splits).too_few(count, None):
        raise ValueError(problem)
    if shuffle:
        logits = logits[torch.from_numpy(np.random.RandomState(SHUFFLE).permutation(count))]
    scores = []
    for i in range(splits):
        logs = logits[i * count // splits : (i + 1) * count // splits].double().log_softmax(1)
        p = logs.exp()
        scores.append((p * (logs - p.mean(0).log())).sum(1).mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std(correction=0))
