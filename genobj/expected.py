"""Published numbers that a recipe stands for: a row of a paper's table, to be read beside one's own results."""

from typing import Annotated

from pydantic import Field

from genobj.config.base import Config


class Expected(Config):
    """One number of a publication. It changes nothing: it is printed and compared with."""

    metric: Annotated[str, Field(min_length=1)] = "fid"
    """What was measured: fid (on 50,000 samples), is (Inception Score), or the name of a metric of ours."""
    value: float = 0.0
    """The published number."""
    nfe: Annotated[int, Field(gt=0)] | None = None
    """Network evaluations per sample."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training set after which it was measured; unset: the publication does not say."""
    parameters: Annotated[int, Field(gt=0)] | None = None
    """Size of the network as the publication prints it (rounded); `genobj cost` prints it beside the count."""
    source: str = ""
    """Where the number stands: paper and table."""

    def sentence(self) -> str:
        """The number and what it belongs to, in a line."""
        parts = [f"{self.metric} {self.value:g}"]
        parts += [f"at nfe {self.nfe}"] if self.nfe else []
        parts += [f"after {self.epochs:g} epochs"] if self.epochs else []
        parts += [f"with {millions(self.parameters)} parameters"] if self.parameters else []
        return " ".join(parts) + (f" ({self.source})" if self.source else "")


def millions(parameters: int) -> str:
    """679000000 -> '679M'."""
    return f"{parameters / 1e6:g}M"
