"""How often a classifier finds the label that a sample was generated for."""

from typing import ClassVar

from genobj.metrics.extractor import DigitsExtractor
from genobj.metrics.features import Extractor, FeatureMetric, Need, Seen


class Accuracy(FeatureMetric):
    """Share of class-conditional samples that the extractor's classifier recognises; saturates early."""

    title: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})
    compares: ClassVar[bool] = False

    def refusal_of(self, extractor: Extractor, shape: tuple[int, ...], classes: int) -> str | None:
        """Needs a classifier that knows the labels of the data."""
        if problem := super().refusal_of(extractor, shape, classes):
            return problem
        if extractor.classes == 0:
            return "accuracy needs a classifier of these labels: type --extractor FOLDER (genobj extractor train)."
        if extractor.classes in (None, classes):
            return None
        digits = isinstance(extractor, DigitsExtractor)
        known = "the ten labels of the digits" if digits else f"{extractor.classes} labels"
        advice = f"type data.labels={extractor.classes} or data.labelled=true, whichever these data have."
        if classes:
            advice = "type --extractor FOLDER, a network of these data (genobj extractor train)."
        return f"accuracy needs {known}, and this data has {classes}: {advice}"

    def values(self, samples: Seen, reference: Seen, seed: int) -> dict[str, float]:
        """Share of samples whose most likely class is their label."""
        if samples.accuracy is None:
            raise ValueError("accuracy needs samples with labels: generate class-conditional samples.")
        return {"": samples.accuracy}
