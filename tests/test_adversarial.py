"""A critic on the trunk: who learns from what, how steep it is, several processes, low precision, dropout, resuming."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genobj.cli.resolve import resolve
from genobj.experiment import Experiment
from genobj.heads.critic import Critic
from genobj.model import Model
from genobj.objectives.adversarial import Adversarial
from genobj.objectives.slopes import SlopePenalty
from genobj.parts import BACKBONES
from genobj.passes import StepPasses
from genobj.paths.edm import EDM
from genobj.paths.linear import Linear
from genobj.paths.trig import Trig
from genobj.run import Run
from genobj.testing import GaussianFlow
from genobj.types import Draw, Point
from tests.test_distributed import DIT, MLP, WORKER, difference, launched
from tests.worker import trained

SMALL: dict[str, Any] = {"backbone": {"kind": "mlp", "width": 16, "depth": 2}, "train": {"batch": 16}}


def experiment(gan: dict[str, Any] | None = None, **changes: Any) -> Experiment:
    return Experiment.model_validate(SMALL | {"objectives": {"fm": {"head": "v"}, "gan": gan or {}}} | changes)


def stirred(settings: Experiment) -> Model:
    """The network with output layers that are not zero."""
    model = settings.model_settings().build()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return model


def batch(settings: Experiment) -> tuple[Tensor, Tensor | None]:
    x, y, _ = settings.data.open().train(range(settings.train.batch), 0)
    return x, y


def gradients(settings: Experiment, model: Model, objective: str = "gan") -> dict[str, Tensor]:
    """What one term alone gives every weight."""
    model.zero_grad()
    composer = settings.composer(shared_masks=model.has_dropout)
    draw = composer.draw(*batch(settings), torch.Generator().manual_seed(3))
    composer.score({"online": model}, draw).terms[objective].share.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def of(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in found.items() if name.startswith(prefix)}


class Ridge(StepPasses):
    """Passes of a step whose critic is D(x) = f(w . x), with the weight w."""

    def __init__(self, w: Tensor, f: Any = lambda x: x):
        super().__init__({"online": GaussianFlow()}, 16)
        self.w, self.f, self.rows = w, f, list[int]()

    def judge(self, point: Point, head: str, precise: bool = False) -> tuple[Tensor, Tensor]:
        self.rows.append(len(point.x_t))
        return self.f(point.x_t.detach() @ self.w), self.f(point.x_t @ self.w.detach())


def draw_of(n: int = 16, path: Any = None) -> Draw:
    path, gen = path or Linear(), torch.Generator().manual_seed(0)
    x, z, more, n2 = (torch.randn(n, 3, generator=gen, dtype=torch.float64) for _ in range(4))
    t, chance = (torch.rand(n, generator=gen, dtype=torch.float64) for _ in range(2))
    x_t, v = path.point(x, z, t), path.velocity(x, z, t)
    return Draw(x, z, t, torch.zeros_like(t), x_t, v, v, chance=chance, noise=(more, n2), path=path)


class TestTheHead:
    @pytest.mark.parametrize("backbone", ["mlp", "unet-tiny", "dit-tiny"])
    def test_it_stands_on_every_backbone_and_sees_samples_times_and_labels(self, backbone: str) -> None:
        settings = experiment(data="digits", backbone=backbone)
        model = stirred(settings)
        x, t, y = torch.randn(4, 1, 8, 8, requires_grad=True), torch.rand(4), torch.arange(4)
        said = model(x, t, y=y)["critic"]
        assert said.shape == (4,)
        (slope,) = torch.autograd.grad(said.sum(), x, retain_graph=True)
        assert slope.flatten(1).norm(dim=1).min() > 1e-4
        for other in (model(x.flip(0), t, y=y), model(x, 1 - t, y=y), model(x, t, y=y + 5)):
            assert not torch.allclose(other["critic"], said, atol=1e-5)
        said.sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.heads["critic"].parameters())

    @pytest.mark.parametrize("backbone", ["mlp", "unet-tiny", "dit-tiny"])
    def test_it_has_an_opinion_from_the_start(self, backbone: str) -> None:
        torch.manual_seed(0)
        trunk = (
            BACKBONES.get(backbone.partition("-")[0])
            .model_validate(_preset(backbone))
            .build((1, 8, 8), 0, sees_r=False)
        )
        said = Critic().build(trunk, 1, sees_r=False)(
            trunk(torch.randn(8, 1, 8, 8), torch.rand(8)), torch.rand(8), None
        )
        assert said.std() > 0

    def test_size(self) -> None:
        trunk = BACKBONES.get("mlp")().build((2,), 0, sees_r=False)
        small, large = (Critic(width=8, depth=depth).build(trunk, 2, sees_r=False) for depth in (1, 3))
        sizes = [sum(p.numel() for p in head.parameters()) for head in (small, large)]
        assert sizes == [(trunk.channels + 1) * 8 + 72 + 9, (trunk.channels + 1) * 8 + 3 * 72 + 9]


def _preset(name: str) -> Any:
    return Experiment.model_validate({"data": "digits", "backbone": name}).backbone.model_dump()


class TestWhoLearns:
    def test_the_critic_from_its_own_loss_alone(self) -> None:
        """Whatever the generator's loss weighs, the critic's gradients are the same, and nothing else has any at 0."""
        found = {}
        for strength in (0.0, 1.0):
            settings = experiment({"strength": strength})
            found[strength] = gradients(settings, stirred(settings))
        critic = [of(found[strength], "heads.critic") for strength in (0.0, 1.0)]
        assert [name for name, value in critic[0].items() if not value.any()] == ["heads.critic.outer.bias"]
        assert all(torch.equal(critic[1][name], value) for name, value in critic[0].items())
        assert not any(value.any() for name, value in found[0.0].items() if not name.startswith("heads.critic"))
        assert all(value.any() for value in of(found[1.0], "heads.u").values())
        assert any(value.any() for value in of(found[1.0], "trunk").values())
        assert not any(value.any() for value in of(found[1.0], "heads.v").values())

    def test_the_trunk_learns_through_the_jump_alone(self) -> None:
        """Gradients of the generator's loss are those of the one number dL/dx_hat . x_hat, whose critic is fixed."""
        settings = experiment({"strength": 1.0, "penalty": {"gamma": 0.0}})
        model, composer = stirred(settings), settings.composer()
        found = gradients(settings, model)
        draw = composer.draw(*batch(settings), torch.Generator().manual_seed(3))
        passes = StepPasses({"online": model}, 16)
        out, objective = passes.main(draw.point), settings.objectives["gan"]
        assert isinstance(objective, Adversarial)
        x_hat = objective.jumps(out, draw)
        fixed = x_hat.detach().requires_grad_()
        real, fake = (model(p.x_t, p.t, y=p.y)["critic"] for p in objective.seen(draw, draw.x, fixed))
        (slope,) = torch.autograd.grad(F.softplus(real - fake).mean(), fixed)
        model.zero_grad()
        (x_hat * slope).sum().backward()
        for name, p in model.trunk.named_parameters():
            torch.testing.assert_close(found[f"trunk.{name}"], p.grad, rtol=1e-4, atol=1e-8)

    @pytest.mark.parametrize("game", ["relativistic", "hinge"])
    def test_both_games_in_closed_form(self, game: str) -> None:
        draw, w = draw_of(), torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
        u = torch.randn(16, 3, dtype=torch.float64, requires_grad=True)
        gan = Adversarial.model_validate({"game": game, "penalty": {"gamma": 0}, "strength": 0.5, "noise": [0.1, 0.9]})
        loss = gan.loss({"u": u}, draw, Ridge(w))
        assert draw.chance is not None
        s = (0.1 + 0.8 * draw.chance)[:, None]
        real, fake = (
            ((1 - s) * x + s * draw.noise[0]) @ w.detach() for x in (draw.x, (draw.x_t - draw.t[:, None] * u).detach())
        )
        if game == "relativistic":
            wanted = F.softplus(fake - real) + 0.5 * F.softplus(real - fake)
            pull = -torch.sigmoid(real - fake)  # of softplus(real - fake) along fake
        else:
            wanted = F.relu(1 - real) + F.relu(1 + fake) - 0.5 * fake
            pull = -torch.ones_like(fake)
        torch.testing.assert_close(loss, wanted)
        loss.sum().backward()
        slope = 0.5 * pull[:, None] * (1 - s) * w.detach()  # along x_hat, whose derivative along u is -t
        torch.testing.assert_close(u.grad, -draw.t[:, None] * slope)
        assert w.grad is not None
        assert w.grad.any()

    def test_on_other_paths_a_jump_lands_on_data(self) -> None:
        for path in (Linear(), Trig(), EDM()):  # the last has states of twice the data's size at t = 0
            draw = draw_of(path=path)
            start = path.data_scale(torch.zeros_like(draw.t))[:, None] * draw.x
            u = (draw.x_t - start) / draw.t[:, None]
            found = Adversarial().jumps({"u": u}, draw)
            torch.testing.assert_close(found, draw.x, rtol=1e-6, atol=1e-6)


class TestPlayers:
    w = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)

    def loss(self, progress: float = 0.0, **settings: Any) -> Tensor:
        u = torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        draw = draw_of()._replace(progress=progress)
        return Adversarial.model_validate({"penalty": {"gamma": 0}} | settings).loss({"u": u}, draw, Ridge(self.w))

    def test_the_generators_strength_follows_the_run(self) -> None:
        rising = {"kind": "linear", "start": 0.0, "end": 1.0}
        none, whole = self.loss(strength=0.0), self.loss(strength=1.0)
        for progress in (0.0, 0.5, 1.0):
            torch.testing.assert_close(self.loss(progress, strength=rising), none + progress * (whole - none))

    def test_they_look_at_the_time_of_the_noise_whatever_r_is(self) -> None:
        assert all(point.r is point.t for point in Adversarial().seen(draw_of(), draw_of().x))

    def test_the_penalty_moves_samples_by_a_noise_of_its_own(self) -> None:
        """gamma / 2 (n . w)^2 at real and at own samples, with the noise n that no sample is seen under."""
        with_penalty = self.loss(strength=0.0, penalty={"gamma": 2.0, "share": 1.0})
        expected = 2 * (draw_of().noise[1] @ self.w).square()
        torch.testing.assert_close(with_penalty - self.loss(strength=0.0), expected)


class TestSlopes:
    def points(self, draw: Draw) -> list[Point]:
        return Adversarial().seen(draw, draw.x, 2 * draw.x)

    def test_a_straight_critic_has_its_slope_whatever_the_step(self) -> None:
        draw, w = draw_of(), torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
        for sigma in (1e-3, 1.0):
            passes = Ridge(w)
            found = SlopePenalty(gamma=3.0, sigma=sigma, share=0.25)(self.points(draw), draw.noise[1], "critic", passes)
            assert passes.rows == [8, 8]
            squares = (draw.noise[1][12:] @ w).square()
            torch.testing.assert_close(found[12:], 2 * 1.5 * 4 * squares)
            assert not found[:12].any()

    def test_it_is_the_squared_gradient_on_average(self) -> None:
        draw, w = draw_of(40_000), torch.tensor([0.6, -0.8, 0.0], dtype=torch.float64)
        penalty = SlopePenalty(gamma=2.0, sigma=0.01, share=1.0)
        points = self.points(draw)
        found = penalty(points, draw.noise[1], "critic", Ridge(w, torch.sin))
        wanted = sum((point.x_t @ w).cos().square().mean() for point in points)  # |w| = 1
        assert float(found.mean()) == pytest.approx(float(wanted), rel=0.03)

    def test_the_share_changes_its_noise_but_not_its_size(self) -> None:
        draw, w = draw_of(20_000), torch.tensor([0.6, -0.8, 0.0], dtype=torch.float64)
        sizes = [
            float(SlopePenalty(share=share)(self.points(draw), draw.noise[1], "critic", Ridge(w)).mean())
            for share in (1.0, 0.25)
        ]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.1)

    def test_rows_that_stand_for_all_are_refused_in_a_mixture(self) -> None:
        """Jumps are the last quarter of the batch: a penalty measured there would count four times."""
        objectives = {"fm": {"head": "u"}, "cm": {"head": "u"}, "gan": {"generator": "u"}}
        tree: dict[str, Any] = {"objectives": objectives, "pairs": {"kind": "zero", "equal_share": 0.75}}
        with pytest.raises(ValueError, match=r"every row of the batch; type objectives\.gan\.rows=all, or give it"):
            experiment(**tree)
        for change in ({"rows": "all"}, {"penalty": {"share": 1.0}}, {"penalty": {"gamma": 0.0}}):
            experiment(**tree | {"objectives": objectives | {"gan": {"generator": "u"} | change}}).composer()

    def test_at_least_one_row(self) -> None:
        draw, passes = draw_of(4), Ridge(torch.ones(3, dtype=torch.float64))
        assert SlopePenalty(share=0.01)(self.points(draw), draw.noise[1], "critic", passes).count_nonzero() == 1
        assert passes.rows == [2, 2]

    def test_it_is_in_float32_under_autocast(self) -> None:
        """In bf16 a difference over .02 would be off by several times its size."""
        settings = experiment({"penalty": {"share": 1.0, "gamma": 2.0}})
        model, composer = stirred(settings), settings.composer()
        draw = composer.draw(*batch(settings), torch.Generator().manual_seed(3))
        penalty, points, sizes = SlopePenalty(share=1.0, gamma=2.0), self.points(draw), []
        for low in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                sizes.append(penalty(points, draw.noise[1], "critic", StepPasses({"online": model}, 16, low=low)))
        assert sizes[1].dtype == torch.float32
        assert torch.equal(*sizes)


class TestSteps:
    """Whole steps, put together and taken apart."""

    @pytest.mark.parametrize("name", ["fm", "gan"])
    def test_parts_of_a_batch_add_up_to_it(self, name: str) -> None:
        settings = experiment({"strength": 1.0, "penalty": {"share": 0.25}})
        model, composer, (x, y) = stirred(settings), settings.composer(), batch(settings)
        whole = gradients(settings, model, name)
        model.zero_grad()
        for part in range(2):
            draw = composer.draw(x[part::2], y, torch.Generator().manual_seed(3), 0.0, part, 2)
            (composer.score({"online": model}, draw).terms[name].share / 2).backward()
        for key, p in model.named_parameters():
            torch.testing.assert_close(torch.zeros_like(p) if p.grad is None else p.grad, whole[key])

    def test_bf16_is_near_float32(self) -> None:
        losses = []
        for precision in ("float32", "bf16"):
            settings = experiment({"strength": 1.0}, train={"batch": 16, "precision": precision})
            model = stirred(settings)
            found = gradients(settings, model)
            composer = settings.composer()
            draw = composer.draw(*batch(settings), torch.Generator().manual_seed(3))
            losses.append((composer.loss({"online": model}, draw).terms["gan"], found["heads.critic.outer.weight"]))
        (exact, one), (rough, two) = losses
        assert rough.dtype == torch.float32
        assert float(rough) == pytest.approx(float(exact), rel=0.02)
        assert F.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.99

    def test_dropout_masks_are_shared_by_both_players_and_both_ends_of_a_difference(self) -> None:
        settings = experiment({}, data="digits", backbone={"kind": "unet-tiny", "dropout": 0.5})
        model = stirred(settings).train()
        composer = settings.composer(shared_masks=True)
        draw = composer.draw(*batch(settings), torch.Generator().manual_seed(3))
        passes = composer.score({"online": model}, draw).passes
        point = draw.point._replace(x_t=draw.x, t=draw.t, r=draw.t)
        assert torch.equal(passes.judge(point, "critic")[0], passes.judge(point, "critic")[0])
        sizes = []
        for net in (model, model.eval()):
            known = StepPasses({"online": net}, 16, passes.masks if net.training else None)
            sizes.append(float(SlopePenalty(share=1.0)([point], draw.noise[1], "critic", known).detach().mean()))
        assert sizes[0] < 20 * sizes[1]

    def test_sharded_weights_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"objectives\.gan needs the whole network; type distributed\.strategy=ddp"
        ):
            experiment(distributed={"strategy": "fsdp2"})

    def test_a_learned_uncertainty_is_refused(self) -> None:
        with pytest.raises(ValueError, match="gan is no error, its sign varies"):
            experiment({"uncertainty": True})

    @pytest.mark.parametrize(("levels", "said"), [([0.5, 0.5], "low to high"), ([0.5, 0.1], r"type \[0.1, 0.5\]")])
    def test_levels_are_ordered(self, levels: list[float], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            Adversarial.model_validate({"noise": levels})

    def test_heads_pair_with_objectives_by_their_place(self) -> None:
        settings, _ = resolve("", heads="v,u,critic", objectives="fm,cm,gan")
        assert settings.objectives["gan"].scalars == {"critic": "critic"}
        assert isinstance(settings.heads["critic"], Critic)
        assert settings.horizons == {"v": "instant", "u": "data"}

    @pytest.mark.parametrize("recipe", ["trihead-gan-moons", "trihead-dmd-moons"])
    def test_resumed_it_ends_with_the_same_bits(self, recipe: str, tmp_path: Path) -> None:
        words = ["train.steps=9", "train.batch=16", "backbone.width=8", "checkpoint.every=4", "evaluation.count=16"]
        words += ["evaluation.reference=16", "evaluation.nfe=[1]", "optim.heads.u.lr=1e-2", "pictures.every=1000"]
        settings, _ = resolve(recipe, overrides=words)
        whole = Run(settings, tmp_path / "whole")
        whole.go()
        parts = Run(settings, tmp_path / "parts")
        steps = parts.state.averages.update

        class Stopped(Exception):
            pass

        def stopping(done: int, *more: Any) -> None:
            if done >= 6:
                raise Stopped
            steps(done, *more)

        parts.state.averages.update = stopping  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            parts.go()
        again = Run(settings, tmp_path / "parts", resume=True)
        assert again.state.step == 4
        again.go()
        pairs = zip(whole.state.model.parameters(), again.state.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


class TestTheLog:
    @pytest.mark.parametrize(
        ("recipe", "sums"),
        [
            ("trihead-gan-moons", {"gan": {"critic": 1.0, "generator": 0.7, "penalty": 1.0}}),
            ("trihead-dmd-moons", {"dmd": {"fake": 1.0, "generator": 0.7}}),
        ],
    )
    def test_it_has_each_players_loss(self, recipe: str, sums: dict[str, dict[str, float]], tmp_path: Path) -> None:
        words = ["train.steps=6", "train.batch=16", "train.micro_batch=8", "backbone.width=8", "log.every=2"]
        words += ["evaluation.count=16", "evaluation.reference=16", "evaluation.nfe=[1]", "pictures.every=1000"]
        settings, _ = resolve(recipe, overrides=[*words, *(f"objectives.{name}.strength=0.7" for name in sums)])
        run = Run(settings, tmp_path / "run")
        run.go()
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) == 3
        for line in lines:
            for name, factors in sums.items():
                parts = {part: line[f"{name}.{part}"] for part in factors}
                assert line[name] == pytest.approx(sum(factors[part] * parts[part] for part in factors), rel=1e-4)
                assert min(parts.values()) > 0

    def test_a_part_that_is_named_and_not_noted_is_an_error_in_a_sentence(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Adversarial, "notes", ("critic", "generator", "penalty", "mood"))
        settings = experiment()
        draw = settings.composer().draw(*batch(settings), torch.Generator().manual_seed(3))
        with pytest.raises(
            ValueError,
            match=r"objectives\.gan: `notes` and what its loss notes differ, critic, generator, mood",
        ):
            settings.composer().loss({"online": stirred(settings)}, draw)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    cases = {}
    for name, recipe in {
        "gan_moons": "trihead-gan-moons",
        "gan_digits": "trihead-gan-digits",
        "dmd": "trihead-dmd-moons",
    }.items():
        settings = DIT if "digits" in recipe else MLP
        typed = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        cases[name] = resolve(recipe, overrides=typed)[0].tree()
    torch.use_deterministic_algorithms(True)
    try:
        alone = {name: trained(tree) for name, tree in cases.items()}
    finally:
        torch.use_deterministic_algorithms(False)
    spread = {name: tree | {"distributed": {"strategy": "ddp"}} for name, tree in cases.items()}
    (tmp_path / "cases.json").write_text(json.dumps(spread))
    done = launched(tmp_path, WORKER, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    wrong = [line for name in cases if (line := difference(tmp_path, name, *alone[name]))]
    assert not wrong, "\n".join(wrong)
