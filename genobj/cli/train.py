"""genobj train: run an experiment, with a progress bar, a picture and a table at the end."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genobj.cli.resolve import Backbone, DataName, Heads, Objectives, Overrides, Plugins, Recipe, Seed, Teacher, resolve

if TYPE_CHECKING:
    from genobj.experiment import Experiment


def command(
    overrides: Overrides = None,
    recipe: Recipe = None,
    heads: Heads = None,
    objectives: Objectives = None,
    backbone: Backbone = None,
    data: DataName = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder [dim](runs/<name>-<hash> if not given)[/dim].")
    ] = None,
    seed: Seed = None,
    resume: Annotated[
        str | None, typer.Option(metavar="auto|RUN", help="auto: go on in --out, or start there; or a run's folder.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and what it costs; run nothing.")] = False,
    plugin: Plugins = None,
    teacher: Teacher = None,
) -> None:
    """Train a model and show what it learnt.

    Without a recipe this is DuMo on two moons; flags and KEY=VALUE settings change it. On several devices:
    torchrun --standalone --nproc-per-node 8 -m genobj train ...
    """
    if resume not in (None, "auto"):
        if out is not None and out != Path(resume):
            raise ValueError(f"--resume {resume} and --out {out} name two folders; give one of them")
        out = Path(resume)
        if not (out / "config.toml").is_file():
            raise ValueError(f"--resume {resume}: there is no run in this folder")
    if resume and not recipe and out is not None and (out / "config.toml").is_file():
        recipe = [str(out / "config.toml")]
    experiment, layers = resolve(recipe, heads, objectives, backbone, data, seed, overrides, plugin, teacher)
    if dry_run:
        from genobj.cli import cost, show

        cost.report(experiment)  # first, since it finds what does not fit
        _tell_other_data(experiment)
        typer.echo("")
        show.leaves_table(experiment, layers)
        return typer.echo("\nnothing was trained; leave --dry-run out to start")

    from genobj.cli.progress import Progress
    from genobj.cli.scores import Counter, scores
    from genobj.run import RUNS, Run
    from genobj.training.folder import link_latest

    if resume and out is None:
        out = RUNS / experiment.run_name()
    run = Run(experiment, out, resume=resume is not None)
    if not run.ranks.first:  # it works, and another process speaks
        run.go()
        return
    _tell_other_data(experiment)
    link_latest(run.folder, RUNS)
    with Progress(run) as progress, Counter() as counter:

        def tell(what: str, done: int, total: int) -> None:
            progress.stop()
            counter.show(what, done, total)

        outcome = run.go(progress.show, tell, progress.beat)
    scores(outcome.records)
    typer.echo(f"picture   {outcome.picture}")
    if outcome.diagnostics is not None:
        typer.echo(f"diagnosis {outcome.diagnostics}")
    typer.echo(f"run       {outcome.folder}")
    if outcome.skipped:
        typer.echo(f"skipped   {outcome.skipped} damaged files, named in {outcome.folder / 'data_errors.log'}")
    few = 1000 if len(experiment.data.shape) == 1 else 100
    typer.echo(f"next      genobj sample {outcome.folder} --nfe 1 --count {few}")


def _tell_other_data(experiment: "Experiment") -> None:
    """A line if the teacher, where there is one, learnt data of another kind."""
    from genobj.parts import DATA

    teacher = experiment.frozen
    if teacher is not None and teacher.is_here and (line := teacher.other_data(DATA.name_of(type(experiment.data)))):
        logging.getLogger("genobj").warning(line)
