"""Entry point of the `tove` command: collect the commands, and turn errors into one sentence and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from inspect import cleandoc
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from tove_core import __version__, environment
from tove_core.cli import (
    answer,
    bench,
    cache,
    cache_build,
    clip,
    compare,
    data,
    demo,
    diagnose,
    doctor,
    experts,
    experts_check,
    experts_new,
    export,
    lifecycle,
    plan,
    push,
    runs,
    score,
    web,
    weights,
)
from tove_core.cli.examples import epilog
from tove_core.errors import Interrupted, ToveError

app = typer.Typer(
    name="tove",
    help="Route what vision experts know into a CLIP's tokens; then detach the experts, or merge them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache.app.command("build")(cache_build.build)
experts.app.command("check")(experts_check.check_experts)
experts.app.command("new")(experts_new.new_expert)
for _command in (plan.plan,):
    app.command(rich_help_panel="Plan and data")(_command)
app.add_typer(data.app, name="data", rich_help_panel="Plan and data")
app.add_typer(cache.app, name="cache", rich_help_panel="Plan and data")
for _command in (runs.train,):
    app.command(rich_help_panel="Train")(_command)
for _command in (runs.evaluate, score.score, answer.caption, answer.answer, diagnose.diagnose):
    app.command(rich_help_panel="Measure")(_command)
app.add_typer(clip.app, name="clip", rich_help_panel="Measure")
app.add_typer(bench.app, name="bench", rich_help_panel="Measure")
app.add_typer(compare.app, name="runs", rich_help_panel="Measure")
for _command in (lifecycle.contributions, lifecycle.detach, lifecycle.select, lifecycle.merge):
    app.command(rich_help_panel="Take experts away")(_command)
for _command in (export.export, push.push, web.app):
    app.command(rich_help_panel="Deploy")(_command)
for _command in (demo.demo, doctor.doctor):
    app.command(rich_help_panel="Look after")(_command)
app.add_typer(experts.app, name="experts", rich_help_panel="Look after")
app.add_typer(weights.app, name="weights", rich_help_panel="Look after")


def _paragraphs(text: str) -> str:
    """Return a docstring with each paragraph on one line, which a help page then breaks where it ends."""
    return "\n\n".join(" ".join(part.split()) for part in cleandoc(text).split("\n\n"))


_groups = {g.name or "": g.typer_instance for g in app.registered_groups}
for _prefix, _group in {"": app, **_groups}.items():
    for _made in _group.registered_commands if _group else ():
        _made.help = _paragraphs((_made.callback and _made.callback.__doc__) or "")
        _called = _made.name or (_made.callback.__name__ if _made.callback else "").replace("_", "-")
        _made.epilog = epilog(f"{_prefix} {_called}".strip())


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tove {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Run the command line; errors of tove become one sentence on stderr and exit code 1."""
    warnings.showwarning = _warn
    if isinstance(sys.stdout, io.TextIOWrapper):  # a letter that the terminal's encoding lacks must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except Interrupted as stopped:
        if not environment.rank():  # the others were stopped with it
            print(f"stopped: {stopped}", file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except ToveError as error:
        if environment.is_true(environment.variable(environment.TRACEBACK)):
            raise
        where = f" in process {environment.rank()}" if environment.rank() else ""
        print(f"error{where}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        if not environment.rank():
            print(f"stopped{_after(sys.argv[1:])}", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.filename is not None or not _is_of_stdout():
            raise
        if error.errno != errno.EPIPE:  # who reads may stop, as head does
            print(f"error: the output cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(1)


def _after(words: list[str]) -> str:
    """Return what is to be said of a command that Ctrl-C ended: whether it goes on, or that it left nothing."""
    if words[:2] in (["cache", "build"], ["bench", "claims"], ["bench", "recipe"]):
        return "; the same command goes on where it was"
    out = next((value for name, value in pairwise([*words, ""]) if name == "--out"), None)
    out = out or next((word.partition("=")[2] for word in words if word.startswith("--out=")), None)
    if words[:1] == ["evaluate"] and out:
        return "; the same command goes on where it was"
    if words and words[0] in ("diagnose", "detach", "export", "merge", "select") and out and not Path(out).exists():
        return "; nothing was written"
    return ""


def _is_of_stdout() -> bool:
    """Return whether stdout takes nothing, as a full disk does; what was to go there is then let go."""
    try:
        print(flush=True)  # what failed may have been dropped, so that flushing alone would not fail again
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more when it ends
        return True
    return False


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print(f"note: {message}", file=sys.stderr)
