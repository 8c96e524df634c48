"""An experiment put together on this machine: everything that trains, and no folder yet."""

from functools import partial

from genobj.experiment import Experiment
from genobj.init import Init
from genobj.model import Model
from genobj.passes import TrainedNetwork
from genobj.teacher import on_path
from genobj.training.averages import Averages
from genobj.training.distributed import build, build_frozen, join, prepare, set_threads
from genobj.training.state import State
from genobj.training.step import Step, StepModule
from genobj.types import Weights


class Assembly:
    """Device, data, network, averages and optimiser of an experiment.

    fresh: whether the run begins, so that `init` counts; else a checkpoint is about to replace all weights. Raises
    ValueError for settings that do not fit the machine or its processes, and for data that cannot be read.
    """

    def __init__(self, experiment: Experiment, *, fresh: bool = True):
        self.experiment = e = experiment
        self.ranks, self.device = join(e.distributed, e.train.device)
        e.train.rounds(self.ranks.world)
        self.settings = e.model_settings()
        self.teacher = self._teacher()
        init = e.init if fresh else None
        if init is not None:
            init.check(self.settings)  # in every process: the first alone may read the weights
        self.source = e.data.open()
        self.model = self._build(init).train()
        set_threads(e.train.threads, self.model)
        self.state = State(self.model, Averages(self.model, e.ema), e.optim.build(self.model))
        if e.distributed.shards:
            # Nothing goes back through the twin, so that nothing but this makes it gather its weights anew.
            self.state.averages.adopt(self._build(None, reshard=True))

    def _build(self, init: Init | None, **changes: bool) -> Model:
        e = self.experiment
        spread = e.distributed.model_copy(update=changes)
        start = partial(init.start, settings=self.settings) if init else None
        return build(self.settings, e.seed, e.train, spread, self.ranks, self.device, start)

    def _teacher(self) -> dict[Weights, TrainedNetwork]:
        """The frozen network, where a step asks for one, read on the run's path."""
        e = self.experiment
        teacher, settings = e.frozen, e.teacher_settings()  # in every process: the first alone may read the weights
        if teacher is None or settings is None:
            return {}
        net = build_frozen(settings, e.train, e.distributed, self.ranks, self.device, teacher.fill, teacher.shards)
        return {"frozen": on_path(net, settings.path, self.settings.path)}

    def step_module(self) -> StepModule:
        """The network with its whole loss."""
        composer = self.experiment.composer(shared_masks=self.model.has_dropout)
        others = dict(self.teacher)
        if "ema" in composer.networks:
            others["ema"] = self.state.averages.network(self.model)
        return StepModule(self.model, others, composer)

    def ready(self, step: StepModule) -> Step:
        """The step as the loop takes it."""
        return prepare(step, self.experiment.train, self.experiment.distributed, self.ranks)
