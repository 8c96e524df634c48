"""The genobj command: one file per subcommand, heavy imports inside them, mistakes answered in a line or two."""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

import genobj
from genobj.cli import (
    average,
    bench,
    check,
    cite,
    compare,
    cost,
    encode,
    evaluate,
    export,
    extractor,
    import_,
    likelihood,
    listing,
    new,
    play,
    push,
    report,
    reproduce,
    sample,
    schema,
    show,
    stats,
    train,
)
from genobj.registry import BrokenPlugin

app = typer.Typer(
    name="genobj",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.command)
app.command("sample")(sample.command)
app.command("play")(play.command)
app.command("evaluate")(evaluate.command)
app.command("likelihood")(likelihood.command)
app.command("compare")(compare.command)
app.command("reproduce")(reproduce.command)
app.command("report")(report.command)
app.command("stats")(stats.command)
app.add_typer(extractor.app, name="extractor")
app.command("average")(average.command)
app.command("encode")(encode.command)
app.command("export")(export.command)
app.command("push")(push.command)
app.command("import")(import_.command)
app.command("list")(listing.command)
app.command("show")(show.command)
app.command("schema")(schema.command)
app.command("check")(check.command)
app.add_typer(new.app, name="new")
app.command("cost")(cost.command)
app.command("bench")(bench.command)
app.command("cite")(cite.command)


REQUEUE = 75
"""Exit code of a run that was asked to stop and saved: start the same command again (EX_TEMPFAIL of sysexits.h)."""


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"genobj {genobj.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and stop.")
    ] = False,
) -> None:
    """Generative objectives, composed: one backbone, N heads, objective plugins, one training loop.

    First run (two moons, about a minute): [bold]genobj train --heads v,u --objectives fm,cm[/bold]
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 it went wrong, 2 wrong usage, 75 stopped and to be resumed."""
    code = run(arguments)
    if code == REQUEUE:  # what asked it to stop may ask again while it ends
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ.get("WORLD_SIZE", "1") != "1":  # threads of process groups can abort an interpreter that ends
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code and never raises for a user's mistake."""
    command = typer.main.get_command(app)
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")  # torch's own, at its first forward mode
    try:
        return (
            command.main(list(sys.argv[1:] if arguments is None else arguments), "genobj", standalone_mode=False) or 0
        )
    except KeyboardInterrupt:
        return _say("interrupted", 1)
    except BrokenPipeError:
        return 1
    except Exception as error:
        return 2 if type(error).__name__ == "NoArgsIsHelpError" else _say(*_explain(error))  # help has been printed


def _explain(error: Exception) -> tuple[str, int]:
    """A sentence and an exit code for an expected mistake; anything else is a bug and is raised."""
    from pydantic import ValidationError

    if hasattr(error, "format_message"):  # typer's own usage errors
        return _usage(error), 2
    if isinstance(error, ValidationError):
        from genobj.config.base import problems

        lines = [f"{where}: {message}" if where else message for where, message in problems(error)]
        more = f"\n(and {len(lines) - 2} more)" if len(lines) > 2 else ""
        return "\n".join(lines[:2]) + more, 2
    if isinstance(error, (ValueError, BrokenPlugin)):
        return str(error), 2
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        return f"{error.filename}: {what}" if error.filename else what, 1
    first = str(error).partition("\n")[0]
    if type(error).__name__ == "Stopped":
        return first, REQUEUE
    if type(error).__name__ in ("Diverged", "OutOfMemoryError"):
        return first, 1
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in first):
        return "out of memory; a smaller train.batch, train.micro_batch or network takes less ('genobj cost' tells)", 1
    if where := _line_of_plugin(error):
        return f"{where}: {type(error).__name__}: {first}", 1
    raise error


def _usage(error: Any) -> str:
    """What typer found wrong with a command line, and whose help tells more."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    stop = "" if message.endswith((".", "?")) else "."
    return f"{message}{stop} Try '{context.command_path if context else 'genobj'} --help'."


def _line_of_plugin(error: Exception) -> str:
    """'walk.py, line 20' if the story leads through a file of --plugin; '' if the mistake is ours."""
    files = {getattr(m, "__file__", None) for name, m in sys.modules.items() if name.startswith("genobj_plugin_")}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def _say(message: str, code: int) -> int:
    if code in (2, REQUEUE) and os.environ.get("RANK", "0") != "0":  # true of every process; the first one tells
        return code
    if code != REQUEUE:
        typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(message, err=True)
    return code


__all__: list[Any] = ["app", "main", "run"]
