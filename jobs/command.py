"""The frame of every command: grid and site in, one line per user error out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from gpuwork.schema import SchemaError
from gpuwork.spec import SpecError
from jobs.site import SiteError, read_site
from jobs.slurm import SlurmError
from jobs.studies import Study, StudyError, open_study

_SITE = Path("site.toml")


def run(
    body: Callable[[Study, argparse.Namespace], int],
    *,
    name: str,
    describe: str | None,
    argv: Sequence[str] | None,
    flags: Mapping[str, str] | None = None,
) -> int:
    """Parse ``GRID [--site FILE]``, open the study and run `body` on it.

    Parameters
    ----------
    name
        The command's module in this package.
    describe
        The command's docstring; its first line is the help text.
    flags
        Switches of this command alone: name → help.

    Returns
    -------
    int
        What `body` returned; 2 after bad input, 1 after trouble with SLURM.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m jobs.{name}", description=(describe or "").partition("\n")[0]
    )
    parser.add_argument("grid", metavar="GRID", help="name of a study, or the path of its .py file")
    parser.add_argument("--site", type=Path, default=_SITE, help="site.toml of this machine")
    for flag, text in (flags or {}).items():
        parser.add_argument(flag, action="store_true", help=text)
    options = parser.parse_args(argv)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        site = read_site(options.site, must_exist=options.site != _SITE)
        return body(open_study(options.grid, site=site), options)
    except (SiteError, StudyError, SpecError, SchemaError) as error:
        errors.print(f"error: {error}")
        return 2
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename else error
        errors.print(f"error: {told}")
        return 2
    except SlurmError as error:
        errors.print(f"error: {error}")
        return 1
