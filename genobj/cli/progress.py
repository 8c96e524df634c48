"""What a person sees during training and after it."""

from time import monotonic

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from genobj.cli.scores import SILENCE, console
from genobj.run import Run
from genobj.training.log import Line


class Progress:
    """A bar with ETA, losses and throughput on a terminal; a plain line now and then elsewhere."""

    def __init__(self, run: Run):
        self.run, self.terms = run, list(run.experiment.objectives)
        self.total = run.experiment.train.steps
        self._told = self._first = run.state.step
        self._started = self._spoke = monotonic()
        self.bar = Bar(
            TextColumn("train"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Progress":
        e, model = self.run.experiment, self.run.model
        heads = ", ".join(f"{head} ({horizon})" for head, horizon in e.horizons.items())
        size = sum(p.numel() for p in model.parameters())
        data, trunk = e.tree()["data"]["kind"], e.tree()["backbone"]["kind"]
        data += f" ({e.data.classes} labels)" if e.data.classes else ""
        world, device = self.run.ranks.world, self.run.device.type
        where = f"{world} x {device}, {e.distributed.chosen(world)}" if world > 1 else f"{self.run.device}"
        console.print(f"[bold]{e.name}[/bold]  {trunk} with {size:,} parameters on {data}, {where}")
        console.print(f"heads {heads}; objectives {', '.join(self.terms)}; run {self.run.folder}")
        if self._told:
            console.print(f"resumed at step {self._told}")
        self.bar.start()
        self.task = self.bar.add_task("train", total=self.total, completed=self._told, losses="")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal to others."""
        self.bar.stop()

    def beat(self, step: int) -> None:
        """A step is done: the bar moves, or a line breaks a long silence."""
        now = monotonic()
        if not self.bar.disable:
            self.bar.update(self.task, completed=step)
        elif now - self._spoke > SILENCE:
            self._spoke, each = now, (now - self._started) / (step - self._first)
            left = each * (self.total - step) / 60
            console.print(f"step {step} of {self.total}   {each:.2g} s a step, about {left:.0f} minutes to go")

    def show(self, line: Line) -> None:
        """Take in a line of the log."""
        step = int(line["step"])
        rate = line.get("samples_per_second")
        speed = f"  {rate:,.0f} samples/s" if rate else ""
        losses = "  ".join(f"{name} {line[name]:.4f}" for name in self.terms) + speed
        self.bar.update(self.task, completed=step, losses=losses)
        if step == self.total:
            self.stop()
            console.print(f"trained   {losses}")
            console.print("evaluating ...")
        elif self.bar.disable and step - self._told >= self.total / 10:
            self._told, self._spoke = step, monotonic()
            console.print(f"step {step} of {self.total}   {losses}")
