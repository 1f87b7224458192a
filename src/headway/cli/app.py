"""The commands and their options; errors become messages and exit codes here."""

from __future__ import annotations

import os
import sys

import click
import typer

from headway import __version__
from headway.core import HeadwayError

app = typer.Typer(
    name="headway",
    help="Make ranking models small and fast without measurable loss, and serve them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, value: bool) -> None:
    if value:
        typer.echo(f"headway {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 failed, 2 usage, 3 guard or SLA not met."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except click.exceptions.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.stderr.write("stopped\n")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except HeadwayError as error:
        sys.stderr.write(f"headway: {error}\n")
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
