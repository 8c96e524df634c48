"""Log-likelihood on flows whose density is known, and `genobj likelihood` on a small run."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genobj.cli.main import run
from genobj.experiment import Experiment
from genobj.parts import PATHS
from genobj.paths.linear import Linear
from genobj.paths.trig import Trig
from genobj.run import Run
from genobj.samplers.likelihood import Divergence, bits_per_dim, dequantised, log_likelihood
from genobj.testing import GaussianFlow
from genobj.types import Horizon

STD = 0.5
CURVES = {name: PATHS.get(name)() for name in PATHS.names()} | {
    "half": Linear(noise_std=0.5),
    "quarter": Trig(quarter=1.57),
}
EXACT = Divergence(rtol=1e-8, atol=1e-8)


def density(x: Tensor, std: float | Tensor = STD) -> Tensor:
    """log N(x; 0, std^2) in nats, (batch,)."""
    return torch.distributions.Normal(0.0, torch.as_tensor(std)).log_prob(x).flatten(1).sum(1)


def samples(*shape: int) -> Tensor:
    return STD * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("method", ["rk45", "dop853", "dopri5"])
@pytest.mark.parametrize("path", CURVES)
def test_the_density_of_a_gaussian_is_found(path: str, method: Any) -> None:
    net, x = GaussianFlow(CURVES[path], STD, ("v",)), samples(16, 2)
    found = log_likelihood(net, x, path=net.path, how=EXACT.model_copy(update={"method": method}))
    # the edm path has 1 % of the data in its noise and a trace of noise in its data
    torch.testing.assert_close(found.nats, density(x), rtol=0, atol=1e-4 if path == "edm" else 1e-5)
    assert 10 < found.nfe < 400


@pytest.mark.parametrize("heads", [("v",), ("u", "w"), ("w",)])
def test_velocity_heads_and_flow_maps_agree_in_any_precision(heads: tuple[str, ...]) -> None:
    net, x = GaussianFlow(heads=heads), samples(16, 1, 2, 2)
    torch.testing.assert_close(log_likelihood(net, x, how=EXACT).nats, density(x), rtol=0, atol=1e-5)
    low = log_likelihood(net, x.float())
    torch.testing.assert_close(low.nats, density(x), rtol=0, atol=1e-3)


class Curved:
    """v = A tanh(x) + t x: its Jacobian is neither diagonal nor constant."""

    horizons: Mapping[str, Horizon] = {"v": "instant"}

    def __init__(self, size: int):
        self.matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / size
        self.rows: list[int] = []

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None
    ) -> dict[str, Tensor]:
        self.rows.append(len(x_t))
        flat = x_t.flatten(1)
        return {"v": (flat.tanh() @ self.matrix.T.to(flat) + t[:, None] * flat).view_as(x_t)}


def test_the_density_integrates_to_one() -> None:
    """A trace of the wrong sign, or of the wrong entries of the Jacobian, would not."""
    net, line = Curved(2), torch.linspace(-8, 8, 120, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    mass = log_likelihood(net, x).nats.exp().sum() * (line[1] - line[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-3)


def test_random_vectors_estimate_the_trace() -> None:
    net, x = Curved(6), samples(8, 6)
    exact = log_likelihood(net, x).nats
    few, many = (log_likelihood(net, x, how=Divergence(probes=probes)).nats for probes in (2, 100))
    assert (many - exact).square().mean() < 0.2 * (few - exact).square().mean()
    torch.testing.assert_close(many, exact, rtol=0, atol=0.2)
    assert not torch.equal(log_likelihood(net, x, how=Divergence(probes=2, seed=1)).nats, few)
    alone = log_likelihood(net, x[5:], how=Divergence(probes=2), rows=range(5, 8)).nats
    torch.testing.assert_close(alone, few[5:], rtol=0, atol=1e-3)


def test_large_samples_are_estimated_unless_told_otherwise() -> None:
    for size, same in ((64, True), (65, False)):
        net, x = Curved(size), samples(2, size)
        usual, exact = (log_likelihood(net, x, how=Divergence(rtol=0.01, atol=0.01, probes=n)) for n in (None, 0))
        assert torch.equal(usual.nats, exact.nats) is same
        assert net.rows == [2] * (usual.nfe + exact.nfe)


def test_bits_of_images() -> None:
    """Uniform density on [-1, 1] is 8 bits, but for the 256 levels being 2 / 255 apart."""
    nats = torch.full((3,), -12 * math.log(2.0))
    assert bits_per_dim(nats, 12, 1 / 127.5).tolist() == pytest.approx([math.log2(255)] * 3, abs=1e-2)
    assert bits_per_dim(nats, 12, 1 / 8).tolist() == pytest.approx([4.0] * 3)  # 2 is 16 levels wide
    levels = torch.randint(0, 256, (4, 1, 64, 64)).double() / 127.5 - 1
    noisy = dequantised(levels, 1 / 127.5)
    assert 0.4999 / 127.5 < (noisy - levels).abs().max() <= 0.5 / 127.5
    assert torch.equal(((noisy + 1) * 127.5).round(), ((levels + 1) * 127.5).round())
    assert not torch.equal(dequantised(levels, 1 / 127.5, 1), noisy)


@pytest.mark.parametrize(
    ("heads", "how", "says"),
    [
        (("u",), Divergence(), "gives the velocity, and this model has u (data): train one"),
        (("u", "v"), Divergence(head="u"), "gives the velocity, and u (data) does not: type head=v"),
        (("v",), Divergence(head="x"), "this model has no head 'x': choose from v"),
        (("v",), Divergence(limit=10), "after 10 evaluations: type larger rtol and atol, or a larger limit"),
    ],
)
def test_mistakes_say_what_to_type(heads: tuple[str, ...], how: Divergence, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        log_likelihood(GaussianFlow(heads=heads), samples(4, 2), how=how)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with heads v and u, and one with a data head alone."""
    place = tmp_path_factory.mktemp("likelihood")
    tree = {
        "backbone": {"kind": "mlp", "width": 16, "depth": 2},
        "train": {"steps": 2, "batch": 32},
        "evaluation": {"nfe": [1], "count": 32, "reference": 32, "metrics": ["sliced_w2"]},
    }
    Run(Experiment.model_validate({**tree, "objectives": {"fm": {}, "cm": {}}}), place / "two").go()
    Run(Experiment.model_validate({**tree, "data": "digits", "objectives": {"mf": {}}}), place / "digits").go()
    Run(Experiment.model_validate({**tree, "objectives": {"ect": {}}}), place / "jumps").go()
    return place


@pytest.fixture(autouse=True)
def _there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "site" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("site"))


@pytest.mark.usefixtures("site")
def test_the_command_prints_and_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["likelihood", "two", "--count", "20", "--batch", "8", "rtol=1e-4"]) == 0
    printed, told = capsys.readouterr().out, json.loads(Path("two/likelihood.json").read_text())
    assert f"log-likelihood  {told['mean']:.4f} +- {told['standard_error']:.4f} nats per sample" in printed
    assert told["n"] == 20
    assert told["settings"]["rtol"] == 1e-4
    assert told["weights"].startswith("ema_")
    assert f"head {told['head']}, 20 held-out samples, {told['nfe']:g} NFE, weights" in printed
    whole = run(["likelihood", "two", "--count", "20", "--json", "--out", "else.json", "rtol=1e-4"])
    assert whole == 0
    assert json.loads(capsys.readouterr().out)["mean"] == pytest.approx(told["mean"], abs=1e-2)


@pytest.mark.usefixtures("site")
def test_images_with_labels_are_told_in_bits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["likelihood", "digits", "--count", "4", "--bits", "probes=1", "rtol=1e-2", "atol=1e-2"]) == 0
    told = json.loads(Path("digits/likelihood.json").read_text())
    assert f"bits per dim    {told['bits_per_dim']:.4f}" in capsys.readouterr().out
    assert told["bits_per_dim"] == pytest.approx((math.log(8) - told["mean"] / 64) / math.log(2), rel=1e-5)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("jumps", "the likelihood needs a head that gives the velocity"),
        ("two --bits", "--bits is about data with levels, as uint8 images have, and moons has none"),
        ("two probe=3", "unknown key 'probe'. Did you mean 'probes'?"),
        ("nowhere", "there is no nowhere here"),
        ("two head=w", "this model has no head 'w': choose from v, u"),
    ],
)
def test_the_command_answers_mistakes_in_a_sentence(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["likelihood", *words.split()]) == 2
    assert says in capsys.readouterr().err
