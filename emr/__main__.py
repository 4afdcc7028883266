"""`python -m emr VERB`: the project's jobs on Amazon EMR. `make emr-VERB` does the same."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import JobError
from common.run.parser import Parser
from emr import dry_run, verbs
from emr.context import Context
from emr.follow import CANCELLED, DONE, WRONG
from emr.package import ROOT
from emr.settings import SECTIONS, load_settings, settings_flags
from emr.terminal import Terminal


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes:
        run: does it, and returns the exit code.
        dry_run: prints the requests that `run` would send.
        help: a description for --help.
    """

    run: Callable[[Context], int]
    dry_run: Callable[[Context], int]
    help: str


VERBS = {
    "deploy": Verb(
        verbs.deploy,
        dry_run.deploy,
        "do everything: package, upload, find or start a cluster, run, fetch, terminate",
    ),
    "package": Verb(verbs.package, dry_run.package, "make the archives without uploading them"),
    "submit": Verb(verbs.submit, dry_run.submit, "run a job on a running cluster, and leave the cluster running"),
    "status": Verb(verbs.status, dry_run.status, "show the states of a cluster and of its steps"),
    "logs": Verb(verbs.logs, dry_run.logs, "print a step's logs"),
    "fetch": Verb(verbs.fetch, dry_run.fetch, "fetch a run folder to this machine"),
    "cancel": Verb(verbs.cancel, dry_run.cancel, "cancel a step"),
    "terminate": Verb(verbs.terminate, dry_run.terminate, "terminate your clusters, or one"),
    "list": Verb(
        verbs.list_all, dry_run.list_all, "list all clusters, run folders and other objects of this project"
    ),
}
WITH_CLUSTER = {"submit", "status", "logs", "cancel", "terminate"}
"""Verbs that take --cluster."""

WITH_STEP = {"logs", "cancel"}
"""Verbs that take --step."""

WITH_PLAN = {"deploy", "package", "submit"}
"""Verbs that need all settings; the others need only the section [place]."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the verb and its flags."""
    parser = Parser(prog="python -m emr", description="Spark jobs of this project on Amazon EMR.")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, verb in VERBS.items():
        command = commands.add_parser(name, help=verb.help, description=f"{verb.help[0].upper()}{verb.help[1:]}.")
        if name in WITH_CLUSTER:
            default = "all of yours" if name == "terminate" else "your newest"
            command.add_argument("--cluster", metavar="ID", help=f"a cluster, such as j-1ABC (default: {default})")
        if name in WITH_STEP:
            command.add_argument("--step", metavar="ID", help="a step, such as s-1ABC (default: the newest)")
        if name == "fetch":
            command.add_argument("--run", metavar="NAME", help="name of a run folder (default: the newest)")
        command.add_argument("--dry-run", action="store_true", help="print the requests to AWS, and send none")
        command.add_argument("--quiet", action="store_true", help="print nothing but results and errors")
        settings_flags(command, SECTIONS if name in WITH_PLAN else ("place",))
    return parser.parse_arguments(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        the exit code: 0 done, 1 the job or its cluster failed, 3 timeout, 4 cancelled; 2 if anything else was
        wrong, be it the input or AWS.
    """
    arguments = parse(argv)
    reporter = Terminal(arguments.quiet)

    def interrupt_without_question(_signal: int, _frame: object) -> None:
        reporter.interactive = False
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt_without_question)
    try:
        code = _run(arguments, reporter)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except (OSError, JobError) as error:
        # never with exit code 1, which means that the job or its cluster failed
        print(f"emr {arguments.verb}: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print(f"emr {arguments.verb}: interrupted; `make emr-list` shows what runs", file=sys.stderr)
        return CANCELLED


def _run(arguments: argparse.Namespace, reporter: Terminal) -> int:
    """Load the settings and run the verb, or its dry run; return the exit code."""
    settings = load_settings(arguments, os.environ)
    if arguments.verb in WITH_PLAN:
        settings.check()
        verbs.check_flags(settings.job, settings.words)
    context = Context(
        settings,
        reporter,
        data_root=Path(os.environ.get("IMAGE_DATA_ROOT") or "data"),
        packages=ROOT / "dist" / "emr",
        cluster=getattr(arguments, "cluster", None) or "",
        step=getattr(arguments, "step", None) or "",
        run=getattr(arguments, "run", None) or "",
    )
    verb = VERBS[arguments.verb]
    is_dry = arguments.dry_run or os.environ.get("DRY_RUN", "") not in ("", "0", "no", "false")
    return (verb.dry_run if is_dry else verb.run)(context)


if __name__ == "__main__":
    raise SystemExit(main())
