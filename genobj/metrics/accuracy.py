"""How often a classifier finds the label that a sample was generated for."""

from typing import ClassVar

from genobj.data.base import Batch
from genobj.metrics import extractor
from genobj.metrics.base import Metric


class Accuracy(Metric):
    """Share of class-conditional digits that a classifier recognises; saturates early."""

    title: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def refusal(self, shape: tuple[int, ...], classes: int) -> str | None:
        """Needs labelled 8 x 8 digits."""
        if classes == 10 or extractor.refusal(shape):
            return extractor.refusal(shape)
        return f"accuracy needs the ten labels of the digits, and this data has {classes}: set data.labelled = true."

    def __call__(self, samples: Batch, reference: Batch, seed: int) -> float:
        """Share of samples whose most likely class is their label; the reference is not looked at."""
        if samples.y is None:
            raise ValueError("accuracy needs samples with labels: generate class-conditional samples.")
        found = extractor.logits(samples.x).argmax(dim=1)
        return float((found == samples.y.cpu()).double().mean())
