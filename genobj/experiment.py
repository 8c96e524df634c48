"""The whole experiment as one tree of settings, its cross checks, and how it is put together."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from genobj.backbones.base import Backbone
from genobj.composer import Composer, DropWhere, log_variance
from genobj.config.base import Config, Pick, named
from genobj.config.load import fingerprint
from genobj.data.base import Data
from genobj.evaluation import Evaluation
from genobj.expected import Expected
from genobj.guidance.base import Guidance
from genobj.guidance.frozen import FrozenGuidance
from genobj.heads.base import Head
from genobj.heads.projection import Projection
from genobj.init import Init
from genobj.mixture import horizons
from genobj.model import HeadName, ModelSettings
from genobj.objectives.base import Objective
from genobj.parts import BACKBONES, DATA, GUIDANCE, HEADS, OBJECTIVES, PAIRS, PATHS, TIMES
from genobj.paths.base import Path
from genobj.reading import ReadingName, reading
from genobj.teacher import Teacher
from genobj.times.base import Times
from genobj.times.pairs import Pairs
from genobj.training.averages import EMA
from genobj.training.checkpoint import Checkpoint
from genobj.training.diagnose import Diagnose
from genobj.training.distributed import Distributed
from genobj.training.health import HealthSettings
from genobj.training.log import COLUMNS, Log
from genobj.training.loop import Train
from genobj.training.optim import Optim
from genobj.types import Horizon

FREE = (
    frozenset(
        {
            "name",
            "log",
            "checkpoint",
            "pictures",
            "evaluation",
            "diagnose",
            "plugins",
            "expected",
            "distributed",
            "health",
        }
    )
    | {f"train.{key}" for key in ("device", "threads", "compile", "recompute", "prefetch", "workers", "micro_batch")}
    | {"ema.snapshot_every", "data.cache", "data.download", "data.root", "teacher.shards"}
)
"""Settings that a resumed run may change: they do not change what is learnt."""


class Pictures(Config):
    """Pictures of fixed noise during training, one panel per nfe."""

    every: Annotated[int, Field(gt=0)] = 1000
    """Steps between pictures."""
    count: Annotated[int, Field(gt=0)] = 1000
    """Points or images in each panel."""
    start: bool = False
    """Draw one before the first step too."""


class Experiment(Config):
    """Everything a run depends on; what `genobj show` prints and a run folder keeps."""

    name: Annotated[str, Field(pattern=r"^[\w.\-]+$")] = "run"
    """Name of the run's folder."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything random."""
    plugins: tuple[str, ...] = ()
    """Python files that register more parts."""
    data: Annotated[Data, Pick(DATA, "moons")] = Field(default_factory=lambda: DATA.get("moons")())
    """What is learnt."""
    backbone: Annotated[Backbone, Pick(BACKBONES, "mlp")] = Field(default_factory=lambda: BACKBONES.get("mlp")())
    """Trunk of the network."""
    objectives: Annotated[dict[str, Annotated[Objective, Pick(OBJECTIVES)]], Field(min_length=1)] = Field(
        default_factory=lambda: {"fm": OBJECTIVES.get("fm")()}
    )
    """Loss terms by name."""
    heads: dict[HeadName, Annotated[Head, Pick(HEADS, "projection")]] = Field(default_factory=dict)
    """Outputs by name; empty: one for every head that an objective trains."""
    path: Annotated[Path, Pick(PATHS, "linear")] = Field(default_factory=lambda: PATHS.get("linear")())
    """Interpolant between data and noise."""
    reading: ReadingName | None = None
    """How the network's input and output are read, as of networks that were trained elsewhere: 'sit', 'ddpm' (DiT),
    'edm' (with EDM's preconditioning), 'target' (UCGM's networks, on their paths); unset: ours."""
    init: Init | None = None
    """Weights that the run starts from; unset: random ones."""
    teacher: Teacher | None = None
    """Frozen network that guides the run or is distilled; unset: none."""
    times: Annotated[Times, Pick(TIMES, "uniform")] = Field(default_factory=lambda: TIMES.get("uniform")())
    """Law of the training time t."""
    pairs: Annotated[Pairs, Pick(PAIRS, "sorted")] = Field(default_factory=lambda: PAIRS.get("sorted")())
    """Law of the target time r given t, for interval heads."""
    guidance: Annotated[Guidance, Pick(GUIDANCE, "none")] = Field(default_factory=lambda: GUIDANCE.get("none")())
    """Training-time guidance."""
    label_drop: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of labels replaced by the null label."""
    label_drop_where: DropWhere = "anywhere"
    """Rows that may lose their label: 'anywhere', 'prefix' (as many rows, all at the front of the batch, where r = t:
    MeanFlow's official code, Shortcut), or 'guided' (where guidance holds: AlphaFlow)."""
    optim: Optim = Optim()
    """Optimiser."""
    ema: EMA = EMA()
    """Averages of the weights."""
    train: Train = Train()
    """Length, batch and machine."""
    distributed: Distributed = Distributed()
    """Several devices."""
    evaluation: Evaluation = Evaluation()
    """What is measured at the end."""
    pictures: Pictures = Pictures()
    """Pictures during training."""
    diagnose: Diagnose = Diagnose()
    """How the objectives get on with each other, looked at now and then (docs/diagnostics.md)."""
    checkpoint: Checkpoint = Checkpoint()
    """When the state is saved."""
    health: HealthSettings = HealthSettings()
    """What is done about a run that goes wrong."""
    log: Log = Log()
    """What is written down."""
    expected: tuple[Expected, ...] = ()
    """Published numbers to compare with; they change nothing."""

    @field_validator("objectives", mode="before")
    @classmethod
    def _objective_names(cls, table: Any) -> Any:
        return named(OBJECTIVES, table)

    @field_validator("heads", mode="before")
    @classmethod
    def _scalar_heads_have_their_kind(cls, heads: Any, info: Any) -> Any:
        kinds = _scalars(info.data.get("objectives", {}))
        if not isinstance(heads, dict):
            return heads
        return {
            name: {"kind": kinds[name], **head} if name in kinds and isinstance(head, dict) else head
            for name, head in heads.items()
        }

    @field_validator("heads", mode="after")
    @classmethod
    def _heads_are_trained(cls, heads: dict[str, Head], info: Any) -> dict[str, Head]:
        objectives: dict[str, Objective] = info.data.get("objectives", {})
        if not objectives:
            return heads
        trained = horizons(objectives)
        scalars = {head: HEADS.get(kind)() for head, kind in _scalars(objectives).items()}
        if not heads.keys() - scalars.keys():
            heads = {name: Projection() for name in trained} | heads
        if both := trained.keys() & scalars.keys():
            raise ValueError(f"head {min(both)!r} would give a tensor and a number; give one of its objectives another")
        for name, objective in objectives.items():
            for head in objective.trains.keys() - heads.keys():
                have, every = ",".join(heads), ",".join(dict.fromkeys([*trained, *scalars]))
                more = " and name heads as in gan@critic, or leave --heads out" if scalars else ""
                raise ValueError(
                    f"objective {name!r} trains head {head!r}, but the model has {have}; type --heads {every}{more}"
                )
        if unused := heads.keys() - trained.keys() - scalars.keys():
            rest = ",".join(name for name in heads if name in trained)
            raise ValueError(
                f"no objective trains head {min(unused)!r}; type --heads {rest}, or add an objective for it"
            )
        for name, head in heads.items():
            if head.r_in and trained.get(name) != "interval":
                raise ValueError(f"heads.{name} is never asked for another r; leave r_in out")
            if head.scalar != (name in scalars) or (head.scalar and type(head) is not type(scalars[name])):
                what = "one number" if head.scalar else "a tensor like x_t"
                raise ValueError(f"heads.{name} gives {what}, which is not what trains it; leave its kind out")
        return heads | {name: head for name, head in scalars.items() if name not in heads}

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        if refusal := self._teacher_refusal():
            raise ValueError(refusal)
        if taken := self.objectives.keys() & COLUMNS:
            raise ValueError(f"objectives.{min(taken)}: metrics.jsonl has a column of this name; choose another")
        if unknown := (self.optim.heads or {}).keys() - self.heads.keys():
            raise ValueError(f"optim.heads.{min(unknown)}: this model has the heads {', '.join(self.heads)}")
        parts = self.train.rounds()
        if refusal := self._machine_refusal() or self._r_refusal():
            raise ValueError(refusal)
        if self._sees_pairs and (refusal := self.pairs.refusal(self.train.batch)):
            raise ValueError(f"pairs: {refusal}")
        if refusal := self.composer().refusal(self.train.batch, parts):
            raise ValueError(f"pairs: {refusal}")
        if self.guidance.active and (refusal := self.guidance.refusal(label_drop=self.label_drop)):
            raise ValueError(f"guidance: {refusal}")
        for sampler in self.evaluation.samplers(self.horizons).values():
            if sampler.guidance != 1 and not self.data.classes:
                raise ValueError("evaluation.sampler.guidance needs labelled data; type evaluation.sampler.guidance=1")
            if sampler.guidance != 1 and not self.label_drop:
                raise ValueError("evaluation.sampler.guidance needs the null label; type label_drop=0.1")
        self.evaluation.chosen_metrics(self.data)
        return self

    @property
    def _sees_pairs(self) -> bool:
        return "interval" in self.horizons.values()

    def _teacher_refusal(self) -> str | None:
        """What is wrong about the choice of a teacher (with what to type instead), or None; reads no folder."""
        asked = "frozen" in self.composer().networks
        short = self.guidance.teacher if isinstance(self.guidance, FrozenGuidance) else ""
        if self.teacher and short:
            return "teacher.from and guidance.teacher both name a teacher; leave guidance.teacher out"
        if self.teacher and not asked:
            return "nothing asks for the teacher; type guidance=frozen guidance.omega=0 to distil it, or leave it out"
        if asked and not (self.teacher or short):
            who = "frozen guidance" if self.guidance.active and "frozen" in self.guidance.networks else "an objective"
            return f"{who} needs a teacher; type teacher.from=runs/NAME"
        return None

    def _precision_of(self, name: str) -> str:
        """Where an objective keeps the precision of its passes."""
        return "derivative.precision" if "derivative" in type(self.objectives[name]).model_fields else "precision"

    def _machine_refusal(self) -> str | None:
        """What the objectives and the way in which the network is run exclude (with what to type), or None."""
        recorded = [name for name, objective in self.objectives.items() if objective.beside]
        precise = [name for name, objective in self.objectives.items() if objective.precise]
        if recorded and (self.train.compile or self.train.recompute):
            what = "compile" if self.train.compile else "recompute"
            return (
                f"objectives.{recorded[0]}.derivative.method=tangent records an eager forward with all it keeps; "
                f"type train.{what}=false, or another method"
            )
        if self.distributed.shards and self.train.precision == "bf16_pure" and precise:
            return (
                f"objectives.{precise[0]} asks for passes in float32, but bf16_pure gathers shards in bf16; "
                f"type train.precision=bf16, or objectives.{precise[0]}.{self._precision_of(precise[0])}=autocast"
            )
        judges = [name for name, objective in self.objectives.items() if objective.scalars]
        if self.distributed.shards and judges:
            return f"objectives.{judges[0]} needs the whole network; type distributed.strategy=ddp"
        if judges and self.train.recompute:
            what = f"objectives.{judges[0]} judges with fixed weights, which recomputing forgets"
            return f"{what}; type train.recompute=false"
        if self.distributed.shards and self.diagnose.every:
            return "diagnose.every needs the whole network; type distributed.strategy=ddp, or diagnose.every=0"
        if self.distributed.shards and self.evaluation.every:
            return (
                "evaluation.every needs the whole network; type distributed.strategy=ddp, or leave evaluation.every out"
            )
        return None

    def _r_refusal(self) -> str | None:
        """Why heads cannot be told the target times that are drawn (with what to type instead), or None."""
        signed = [name for name, head in self.heads.items() if head.r_in == "sign"]
        negative = self.pairs.negative if self._sees_pairs else None
        backward = bool(negative) or any(objective.backward for objective in self.objectives.values())
        if (signed or backward) and self.reading in ("edm", "ddpm"):
            return f"reading={self.reading} knows no negative times; leave it out"
        if backward and (foreign := reading(self.reading, self.path)) and not foreign.even:
            return (
                f"reading={self.reading} knows no negative times on this path; type path=linear, or leave reading out"
            )
        if not signed:
            return None
        if negative or "trunk" in (head.r_in for head in self.heads.values()):
            return f"heads.{signed[0]}.r_in=sign uses the sign of t for itself; type heads.{signed[0]}.r_in=trunk"
        between = [name for name, o in self.objectives.items() if "interval" in o.trains.values()]
        mixed = [o.rows or "" for o in self.objectives.values() if o.trains.keys() & set(signed)]
        if between or (self.pairs.rest == "interval" and {"", "equal", "rest"} & set(mixed)):
            return (
                f"heads.{signed[0]}.r_in=sign can ask for r = t and r = 0 alone; "
                f"type pairs=zero pairs.equal_share=0.5, or heads.{signed[0]}.r_in=trunk"
            )
        return None

    @property
    def horizons(self) -> dict[str, Horizon]:
        """Horizon of every head, in the order of `heads`."""
        found = horizons(self.objectives)
        signed = {name for name, head in self.heads.items() if head.r_in == "sign"}
        return {name: "ends" if name in signed else found[name] for name in self.heads if name in found}

    @property
    def idle(self) -> frozenset[str]:
        """The law of r, where no head sees r; the share of dropped labels, where there are none."""
        unlabelled = not self.data.classes
        no_r = "interval" not in self.horizons.values()
        unused = {"pairs": no_r, "label_drop": unlabelled, "label_drop_where": unlabelled}
        unused["times"] = not no_r and self.pairs.own_times
        return frozenset(name for name, is_unused in unused.items() if is_unused)

    def tree(self) -> dict[str, Any]:
        """Plain values that validate to an equal experiment."""
        return self.model_dump(mode="json", exclude_none=True)

    def learns(self, besides: frozenset[str] = frozenset({"seed"})) -> dict[str, Any]:
        """The settings that decide what is learnt, without `besides`."""
        tree = self.tree()
        for key in FREE | besides:
            table, _, leaf = key.rpartition(".")
            (tree.get(table, {}) if table else tree).pop(leaf, None)
        return tree

    def run_name(self) -> str:
        """name-hash, where the hash changes with every setting that changes what is learnt."""
        return f"{self.name}-{fingerprint(self.learns(besides=frozenset()))}"

    def model_settings(self) -> ModelSettings:
        """What rebuilds the network."""
        return ModelSettings(
            backbone=self.backbone,
            heads=self.heads,
            horizons=self.horizons,
            shape=self.data.shape,
            classes=self.data.classes,
            path=self.path,
            fed=self.guidance.feeds,
            augmentation=self.data.augmentation,
            reading=self.reading,
            autoencoder=self.data.autoencoder,
        )

    def composer(self, *, shared_masks: bool = False) -> Composer:
        """Draws, passes and losses."""
        return Composer(
            self.path,
            self.times,
            self.pairs,
            self.objectives,
            self.guidance,
            classes=self.data.classes,
            label_drop=self.label_drop,
            drop_where=self.label_drop_where,
            shared_masks=shared_masks,
            low=self.train.precision != "float32",
            pure=self.train.precision == "bf16_pure",
        )

    @property
    def frozen(self) -> Teacher | None:
        """The teacher, where a step asks for one: `teacher`, or what guidance.teacher is short for."""
        if "frozen" not in self.composer().networks:
            return None
        return self.teacher or (
            Teacher.named(self.guidance.teacher) if isinstance(self.guidance, FrozenGuidance) else None
        )

    def teacher_settings(self) -> ModelSettings | None:
        """What rebuilds the frozen network; None if no step asks for one. Reads what describes it, but no weights.

        ValueError, with what to type, if there is none or it cannot answer what it is asked.
        """
        if self.frozen is None:
            return None
        ours = self.model_settings()
        theirs = self.frozen.settings(ours)
        asking = [objective for objective in self.objectives.values() if "frozen" in objective.networks]
        heads: dict[str, Horizon] = {}
        for objective in asking:
            heads |= objective.asks_teacher
        self.frozen.check(theirs, ours, heads)
        guides = self.guidance.active and "frozen" in self.guidance.networks
        if guides or not all(objective.asks_teacher for objective in asking):
            told = self.guidance.told if isinstance(self.guidance, FrozenGuidance) else None
            self.frozen.check_velocity(theirs, told)
        return theirs


def _scalars(objectives: Mapping[str, Objective]) -> dict[str, str]:
    """Kinds of the scalar heads that objectives train, by name."""
    found = {log_variance(name): "log_variance" for name, one in objectives.items() if one.uncertainty}
    for objective in objectives.values():
        found |= objective.scalars
    return found
