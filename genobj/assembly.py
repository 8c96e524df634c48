"""An experiment put together on this machine: everything that trains, and no folder yet."""

from genobj.experiment import Experiment
from genobj.model import Model
from genobj.training.averages import Averages
from genobj.training.distributed import build, join, prepare, set_threads
from genobj.training.state import State
from genobj.training.step import Step, StepModule


class Assembly:
    """Device, data, network, averages and optimiser of an experiment.

    Raises ValueError for settings that do not fit the machine or its processes, and for data that cannot be read.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = e = experiment
        self.ranks, self.device = join(e.distributed, e.train.device)
        e.train.rounds(self.ranks.world)
        self.teacher = e.teacher(self.device)
        self.settings = e.model_settings()
        self.source = e.data.open()
        self.model = self._build().train()
        set_threads(e.train.threads, self.model)
        self.state = State(self.model, Averages(self.model, e.ema), e.optim.build(self.model))
        if e.distributed.shards:
            # Nothing goes back through the twin, so that nothing but this makes it gather its weights anew.
            self.state.averages.adopt(self._build(reshard=True))

    def _build(self, **changes: bool) -> Model:
        e = self.experiment
        spread = e.distributed.model_copy(update=changes)
        return build(self.settings, e.seed, e.train, spread, self.ranks, self.device)

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
