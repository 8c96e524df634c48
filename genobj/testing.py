"""The contract that every part keeps, for the authors of plugins: `genobj check NAME` and `genobj.testing.check`."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from genobj.backbones.base import Backbone, Features
from genobj.config.base import Config
from genobj.cost import one_step
from genobj.data.base import Data
from genobj.distances.base import Distance
from genobj.experiment import Experiment
from genobj.guidance.base import Guidance
from genobj.heads.base import Head
from genobj.metrics.base import Metric
from genobj.metrics.features import Extractor, FeatureMetric, Seen
from genobj.metrics.frechet import moments
from genobj.model import Model
from genobj.objectives.base import Objective
from genobj.parts import FAMILIES, OBJECTIVES, PAIRS
from genobj.passes import StepPasses, TrainedNetwork
from genobj.paths.base import Path
from genobj.paths.linear import Linear
from genobj.registry import Registry
from genobj.samplers.base import Sampler
from genobj.samplers.grids import Grid
from genobj.schedules import Schedule
from genobj.times.base import Times
from genobj.times.pairs import Pairs
from genobj.times.uniform import Uniform
from genobj.types import Draw, Horizon, Point, Weights, over

Check = Callable[[Any], None]


class GaussianFlow:
    """The exact velocity and flow map of Gaussian data x ~ N(0, std^2), as a network with three heads.

    v (instant), u (data) and w (interval). Fed to an objective with the marginal velocity as v_t, prediction and
    target agree; samplers show their order on it. Works in the precision of its inputs.
    """

    def __init__(self, path: Path | None = None, std: float = 0.5, heads: tuple[str, ...] = ("v", "u", "w")):
        self.path, self.std = path or Linear(), std
        every: dict[str, Horizon] = {"v": "instant", "u": "data", "w": "interval"}
        self.horizons: dict[str, Horizon] = {head: every[head] for head in heads}
        self.sees_r = frozenset(head for head in heads if head == "w")

    def scale(self, t: Tensor) -> Tensor:
        """Standard deviation of x_t."""
        return (self.path.noise_scale(t).square() + (self.std * self.path.data_scale(t)).square()).sqrt()

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The marginal velocity E[v_t | x_t]."""
        noise, data = self.path.noise_scale(t), self.path.data_scale(t)
        growth = noise * self.path.noise_rate(t) + self.std**2 * data * self.path.data_rate(t)
        return over(growth / self.scale(t).square(), x_t) * x_t

    def average(self, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """The average velocity over [r, t]."""
        gap = torch.where(t == r, 1.0, t - r)
        jump = over((1 - self.scale(r) / self.scale(t)) / gap, x_t) * x_t
        return torch.where(over(t == r, x_t), self.velocity(x_t, t), jump)

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None, g: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See types.Network."""
        ends = {"v": t, "u": torch.zeros_like(t), "w": t if r is None else r}
        return {head: self.average(x_t, t, ends[head]) for head in self.horizons}


def check(family: str, name: str) -> list[str]:
    """Run the contract of one part; returns what was checked. AssertionError says what does not hold."""
    registry = FAMILIES[family]
    part = _general(registry, name)
    special = _CONTRACTS[family]
    special(part)
    return ["documented", "default-constructible", "round trip", *_promises(special)]


def _promises(special: Check) -> Iterator[str]:
    yield from (line.strip().rstrip(".") for line in (special.__doc__ or "").split(";"))


def _general(registry: "Registry[Any]", name: str) -> Config:
    cls = registry.get(name)
    assert issubclass(cls, Config), f"{cls.__name__} must derive from genobj's base class of {registry.plural}"
    assert (cls.__doc__ or "").strip(), f"{cls.__name__} needs a docstring: its first line is shown by genobj list"
    for field, info in cls.model_fields.items():
        assert info.description, f"{cls.__name__}.{field} needs a docstring below it: it is the setting's help text"
        assert not info.is_required(), f"{cls.__name__}.{field} needs a default"
    part = cls()
    again = cls.model_validate(part.model_dump(mode="json", exclude_none=True))
    assert again == part, f"{cls.__name__} does not survive saving and loading: {part!r} became {again!r}"
    assert registry.name_of(cls) == name, f"{cls.__name__} is registered under two names"
    return part


def _objective(part: Objective) -> None:
    """loss per sample, finite; gradients reach its heads and no other; planned passes equal counted ones"""
    torch.manual_seed(0)
    idle = OBJECTIVES.get("fm").model_validate({"head": "other"})
    plan = _plan({"idle": idle, "part": part})
    composer, model = plan.composer(), _perturbed(plan.model_settings().build())
    draw = composer.draw(torch.randn(16, 2), None, torch.Generator().manual_seed(0))
    networks: dict[Weights, TrainedNetwork] = dict.fromkeys(composer.networks, model)
    rows = [0, 0]  # without and with gradients

    def count(_: Any, inputs: tuple[Tensor, ...], features: Features) -> None:
        rows[features.hidden.requires_grad] += len(inputs[0])

    watch = model.trunk.register_forward_hook(count)
    loss = composer.loss(networks, draw)
    watch.remove()
    tangents = 0 if part.beside else loss.passes.tangent  # from the record of the forward: no call of the network
    plain = loss.passes.without_gradient + tangents
    assert [row / 16 for row in rows] == [plain, loss.passes.with_gradient], f"{rows} rows ran, {loss.passes} were told"
    assert all(term.isfinite() for term in loss.terms.values()), "the loss is not finite"
    passes = StepPasses(networks, 16)
    draw = part.prepare(draw, passes)
    per_sample = part.loss(passes.main(draw.point), draw, passes)
    assert per_sample.shape == (16,), f"loss must have shape (batch,), got {tuple(per_sample.shape)}"
    composer.score(networks, draw).terms["part"].share.backward()
    for head, module in model.heads.items():
        moved = any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())
        mine = {*part.trains, *part.scalars}
        assert moved == (head in mine), f"head {head!r} {'gets no' if head in mine else 'gets a'} gradient"
    with torch.device("meta"):
        planned = one_step(plan, plan.model_settings().build(), 16, progress=0.0).passes
    assert planned == loss.passes, f"{planned} were planned, {loss.passes} were counted"


def _plan(objectives: dict[str, Objective]) -> Experiment:
    """An experiment with these objectives and a law of (t, r) that suits them; ValueError if there is none."""
    laws: list[dict[str, Any]] = [{"equal_share": 0.25}]  # some rows with r = t, which some objectives need
    laws += [{"kind": name} for name in PAIRS.names()]
    problem: ValueError | None = None
    tree: dict[str, Any] = {"train": {"batch": 16}, "objectives": objectives}
    if any("frozen" in objective.networks for objective in objectives.values()):
        tree["teacher"] = {"from": "teacher"}  # never read: the network stands in for it
    for pairs in laws:
        try:
            return Experiment.model_validate(tree | {"pairs": pairs})
        except ValueError as error:
            problem = problem or error
    raise problem or ValueError("no law of (t, r) is registered")


def _path(part: Path) -> None:
    """noise at t = 1, data at t = 0; rates are the derivatives of the scales"""
    t = torch.linspace(0.02, 0.98, 33, dtype=torch.float64)
    one = torch.ones_like(t)
    for scale, rate in ((part.noise_scale, part.noise_rate), (part.data_scale, part.data_rate)):
        expected = torch.func.jvp(scale, (t,), (one,))[1]
        assert torch.allclose(rate(t), expected, rtol=1e-6, atol=1e-9), f"{rate.__name__} is not d/dt {scale.__name__}"
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    noise, data = part.noise_scale(ends), part.data_scale(ends)
    assert noise[0] < 0.02 * data[0], "at t = 0 there must be (nearly) no noise"
    assert data[1] < 0.02 * noise[1], "at t = 1 there must be (nearly) no data"


def _times(part: Times) -> None:
    """times in [0, 1], float32, a function of the generator"""
    draws = [part.sample(256, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert draws[0].shape == (256,), "sample must return shape (batch,)"
    assert draws[0].dtype == torch.float32, "sample must return float32"
    assert ((draws[0] >= 0) & (draws[0] <= 1)).all(), "times must lie in [0, 1]"
    assert torch.equal(draws[0], draws[1]), "the same generator must give the same times"
    assert not torch.equal(draws[0], draws[2]), "another generator must give other times"


def _pairs(part: Pairs) -> None:
    """0 <= r <= t <= 1; equal_share rows with r = t"""
    t, r = part.sample(Uniform(), 256, torch.Generator().manual_seed(0))
    own = (t < 0) & (t >= -1) & (r == t)  # rows for the model's own samples
    at = part.groups(256).get(part.negative or "", range(0))
    assert own.nonzero().flatten().tolist() == list(at), "times below 0 are for the group that `negative` names"
    assert (own | ((r >= 0) & (r <= t) & (t <= 1))).all(), "pairs must keep 0 <= r <= t <= 1"
    whole = part.model_copy(update={"equal_share": 1.0})
    t, r = whole.sample(Uniform(), 64, torch.Generator().manual_seed(0))
    assert torch.equal(t, r), "equal_share = 1 must give r = t everywhere"


def _distance(part: Distance) -> None:
    """one finite number a sample, zero at equality; gradients through the prediction, finite everywhere"""
    prediction, target = torch.randn(6, 3, 4, 4, requires_grad=True), torch.randn(6, 3, 4, 4)
    loss = part(prediction, target)
    assert loss.shape == (6,), f"a distance must have shape (batch,), got {tuple(loss.shape)}"
    assert (loss > 0).all(), "different tensors must have a positive distance"
    same = target.clone().requires_grad_()
    assert part(same, target).abs().max() < 1e-5, "equal tensors must have distance 0"
    part(same, target).sum().backward()
    loss.sum().backward()
    for tensor in (prediction, same):
        assert tensor.grad is not None, "gradients must flow through the prediction"
        assert tensor.grad.isfinite().all(), "gradients must be finite, at equality too"


def _guidance(part: Guidance) -> None:
    """a velocity per sample, the plain one where labels change nothing"""
    net: TrainedNetwork = GaussianFlow()
    x, v, t, y = torch.randn(8, 2), torch.randn(8, 2), torch.rand(8), torch.zeros(8, dtype=torch.long)
    draw = Draw(x, x, t, torch.zeros_like(t), x, v, v, y, null=torch.full_like(y, 10))
    if part.feeds:
        g, g_v = part.inputs(t, t / 2, torch.Generator().manual_seed(0))
        draw = draw._replace(g=g, g_v=g_v)
    networks: dict[Weights, TrainedNetwork] = {"online": net, "ema": net, "frozen": net}
    passes = StepPasses(networks, 8)
    passes.main(Point(draw.x_t, draw.t, draw.r, draw.y))
    guided = part.velocity(draw, passes)
    assert torch.allclose(guided, v, atol=1e-6), "where labels change nothing, guidance must change nothing"


def _sampler(part: Sampler) -> None:
    """samples shaped like the noise; nfe equals the calls of the network"""
    net = _Counted()
    z = torch.randn(64, 2, dtype=torch.float64)
    walk = part(net, z)
    assert walk.samples.shape == z.shape, "samples must be shaped like the noise"
    assert walk.nfe == net.calls, f"nfe says {walk.nfe}, the network was called {net.calls} times"


class _Counted(GaussianFlow):
    calls = 0

    def __call__(
        self, x_t: Tensor, t: Tensor, *, r: Tensor | None = None, y: Tensor | None = None, g: Tensor | None = None
    ) -> dict[str, Tensor]:
        self.calls += 1
        return super().__call__(x_t, t, r=r, y=y)


def _grid(part: Grid) -> None:
    """steps + 1 decreasing times from at most 1 to 0"""
    steps = next(n for n in (4, 3, 2, 1) if _gives_times(part, n))
    times = part.times(steps)
    assert len(times) == steps + 1, f"{steps} steps need {steps + 1} times, got {len(times)}"
    assert times[0] <= 1, "times start at most at 1"
    assert times[-1] == 0, "times end at 0"
    assert all(a > b for a, b in pairwise(times)), "times must decrease"


def _gives_times(part: Grid, steps: int) -> bool:
    try:
        return bool(part.times(steps))
    except ValueError:
        return False


def _backbone(part: Backbone) -> None:
    """features of some shape of data; output layers are zero at first; every weight of the trunk can learn"""
    for shape in ((2,), (1, 8, 8), (3, 16, 16), (4, 32, 32)):
        try:
            trunk = part.build(shape, 10, sees_r=True)
        except ValueError:
            continue
        x, t, y = torch.randn(3, *shape), torch.rand(3), torch.tensor([0, 3, 10])
        projection = trunk.projection(2 * shape[0])
        out = projection(trunk(x, t, r=t / 2, y=y))
        assert out.shape == (3, 2 * shape[0], *shape[1:]), f"an output layer gave {tuple(out.shape)} for {shape}"
        assert not out.any(), "output layers must be zero at initialisation"
        for p in projection.parameters():
            torch.nn.init.normal_(p)
        projection(trunk(x, t, r=t / 2, y=y)).square().sum().backward()
        idle = [name for name, p in trunk.named_parameters() if p.requires_grad and p.grad is None]
        assert not idle, f"no gradient reaches {', '.join(idle)}"
        return
    raise AssertionError("the backbone takes none of the shapes (2,), (1, 8, 8), (3, 16, 16), (4, 32, 32)")


def _head_contract(part: Head) -> None:
    """a tensor shaped like the samples, or a number per sample; with and without r"""
    trunk = Experiment().backbone.build((2,), 0, sees_r=False)
    x, t = torch.randn(3, 2), torch.rand(3)
    for sees_r in (False, True):
        out = part.build(trunk, 2, sees_r=sees_r)(trunk(x, t), t, t / 2)
        wanted = x.shape[:1] if part.scalar else x.shape
        assert out.shape == wanted, f"the head gave {tuple(out.shape)} for samples {tuple(x.shape)}"


def _data(part: Data) -> None:
    """batches of the promised shape and labels; the same for the same seed and index, however they are batched"""
    if part.missing:
        told = ""
        try:
            part.open()
        except ValueError as error:
            told = str(error)
        assert part.missing in told, "data that miss their files must refuse to open, and say what `missing` says"
        return
    source = part.open()
    whole, pieces = source.train(range(5, 45), 3), [source.train(range(5, 20), 3), source.train(range(20, 45), 3)]
    assert whole.x.shape == (40, *part.shape), f"shape says {part.shape}, batches have {tuple(whole.x.shape[1:])}"
    assert torch.equal(whole.x, torch.cat([piece.x for piece in pieces])), (
        "a sample must depend on seed and index alone"
    )
    assert torch.equal(whole.x[1::3], source.train(range(6, 45, 3), 3).x), "rows with a step are every so many samples"
    assert (whole.y is not None) == (part.classes > 0), "labels if and only if classes > 0"
    if whole.y is not None:
        assert 0 <= int(whole.y.min()) <= int(whole.y.max()) < part.classes, "labels must lie in 0 ... classes - 1"
    assert len(source.held_out(16, 0).x) == 16, "held_out must give what is asked for"


def _metric(part: Metric) -> None:
    """a finite number on data that it accepts; a function of its inputs and the seed"""
    if isinstance(part, FeatureMetric):
        return _feature_metric(part)
    for name, registered in ((n, FAMILIES["data"].get(n)) for n in ("moons", "digits")):
        data = registered()
        if part.refusal(data.shape, data.classes) is None:
            source = data.open()
            a, b = source.held_out(200, 0), source.reference(300, 1)
            values = [part(a, b, 0) for _ in range(2)]
            assert isinstance(values[0], float), "a metric returns a float"
            assert values[0] == values[1], "the same samples and seed must give the same number"
            assert values[0] == values[0], f"the metric is not a number on {name}"
            return
    raise AssertionError("the metric accepts neither points of the plane nor digits")


def _feature_metric(part: FeatureMetric) -> None:
    """Finite numbers under names that have headings; a function of what was seen and the seed."""
    sets = [torch.randn(count, 12, generator=torch.Generator().manual_seed(count)).double() for count in (300, 200)]
    mine, theirs = (Seen(len(x), moments(x), moments(x), x, x, accuracy=0.5) for x in sets)
    values = [part.values(mine, theirs, 0) for _ in range(2)]
    assert values[0] == values[1], "the same features and seed must give the same numbers"
    assert values[0].keys() <= {"", *part.parts}, "every further number needs a heading in parts"
    for name, value in values[0].items():
        assert isinstance(value, float), f"{name or 'the value'} must be a float"
        assert abs(value) < float("inf"), f"{name or 'the value'} must be finite"


def _extractor(part: Extractor) -> None:
    """features of the width that it tells, the same twice, on digits, where its weights are at hand"""
    shape = (1, 8, 8)
    try:
        space = part.open(torch.device("cpu")) if part.refusal(shape) is None else None
    except ValueError:
        return  # weights that this machine does not have: the error says how to get them
    if space is not None:
        looks = [space.look(torch.linspace(-1, 1, 256).view(4, *shape), "truncate") for _ in range(2)]
        assert looks[0].features.shape == (4, space.width), "features must have the width that the space tells"
        assert looks[0].features.equal(looks[1].features), "the same images must give the same features"


def _perturbed(model: Model) -> Model:
    """Output layers start at zero, where some gradients vanish: move every weight a little."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def _schedule(part: Schedule) -> None:
    """a finite number at every moment, within its span"""
    low, high = part.span
    values = [part(step / 20) for step in range(21)]
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in values), f"values leave the span [{low}, {high}]"


_CONTRACTS: dict[str, Check] = {
    "objectives": _objective,
    "paths": _path,
    "times": _times,
    "pairs": _pairs,
    "distances": _distance,
    "guidance": _guidance,
    "schedules": _schedule,
    "samplers": _sampler,
    "grids": _grid,
    "backbones": _backbone,
    "heads": _head_contract,
    "data": _data,
    "metrics": _metric,
    "extractors": _extractor,
}
