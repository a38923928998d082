"""The command line: parse, call, print. What a command does lives in the module that it imports."""

from __future__ import annotations

import os
import sys
import traceback as tracebacks
from typing import Annotated, NoReturn

import typer

from lnbench import interruption, quiet, threads
from lnbench._version import __version__
from lnbench.cli.listing import CommandsGroup
from lnbench.console import never_fail
from lnbench.errors import LnbenchError, show_deprecations

app = typer.Typer(
    name="lnbench",
    cls=CommandsGroup,
    help="Find language-specific neurons in a multilingual LLM, override them, and measure the effect with lm-eval.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
    verbose: Annotated[  # noqa: ARG001 - taken out of the words, as it may stand behind a command too
        bool, typer.Option(quiet.OPTION, help="Show other packages' messages and progress; else in a log file.")
    ] = False,
) -> None:
    if traceback:
        os.environ["LNBENCH_TRACEBACK"] = "1"


def main() -> None:
    """Entry point: errors are one line on stderr and exit code 2."""
    show_deprecations()
    never_fail()
    interruption.begin()
    words = sys.argv[1:]
    quiet.take_option(words)
    quiet.begin()
    threads.wait_passively()
    try:
        # Typer would frame usage errors, over several lines; this way it raises them.
        code = app(words, standalone_mode=False)
    except typer.Abort as stop:
        # Typer makes one of Ctrl-C, in some releases, and of the end of a file that is cut off.
        if isinstance(stop.__cause__, Exception):
            _fail(stop.__cause__)
        code = interruption.CTRL_C
    except KeyboardInterrupt:
        code = interruption.CTRL_C
    except Exception as error:
        _fail(error)
    finally:
        quiet.end()
    if code == interruption.CTRL_C:
        code = interruption.exit_code()
        _say(interruption.words())
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: Exception) -> NoReturn:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
    elif os.environ.get("LNBENCH_TRACEBACK"):
        tracebacks.print_exception(error)
    else:
        _say(_line(error))
    sys.exit(2)


def _line(error: Exception) -> str:
    """What is wrong, in one line."""
    usage = getattr(error, "format_message", None)  # of click's errors, wherever this release of typer keeps them
    if usage or isinstance(error, LnbenchError):
        return " ".join(str(usage() if usage else error).replace("Value error, ", "").split("\n"))
    lines = str(error).strip().splitlines() or [""]
    named = lines[0] and not isinstance(error, KeyError)  # a KeyError's text is the bare key
    return f"{lines[0] if named else repr(error)} (run with --traceback for details)"


def _say(message: str) -> None:
    typer.echo(f"lnbench: {message}", err=True)
