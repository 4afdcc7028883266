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
from emr import shown, verbs
from emr.context import Context
from emr.ec2 import dry_run as ec2
from emr.follow import CANCELLED, DONE, WRONG
from emr.package import ROOT
from emr.serverless import dry_run as serverless
from emr.settings import SECTIONS, SERVERLESS, load_settings, settings_flags
from emr.terminal import Terminal


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes:
        run: does it, and returns the exit code.
        on_ec2: prints the requests that `run` would send for clusters.
        on_serverless: prints those for applications.
        help: a description for --help.
    """

    run: Callable[[Context], int]
    on_ec2: Callable[[Context], int]
    on_serverless: Callable[[Context], int]
    help: str


VERBS = {
    "deploy": Verb(
        verbs.deploy,
        ec2.deploy,
        serverless.deploy,
        "do everything: package, upload, find or start what runs jobs, run, fetch, and end what was started",
    ),
    "package": Verb(verbs.package, shown.package, shown.package, "make the archives without uploading them"),
    "submit": Verb(verbs.submit, ec2.submit, serverless.submit, "run a job on what was kept, and leave that"),
    "status": Verb(
        verbs.status, ec2.status, serverless.status, "show the state of a cluster or application, and of its jobs"
    ),
    "logs": Verb(verbs.logs, ec2.logs, serverless.logs, "print the logs of a step or job run"),
    "fetch": Verb(verbs.fetch, shown.fetch, shown.fetch, "fetch a run folder to this machine"),
    "cancel": Verb(verbs.cancel, ec2.cancel, serverless.cancel, "cancel a step or job run"),
    "terminate": Verb(
        verbs.terminate, ec2.terminate, serverless.terminate, "end your clusters or applications, or one of them"
    ),
    "list": Verb(
        verbs.list_all,
        ec2.list_all,
        serverless.list_all,
        "list what this project has on AWS",
    ),
}
WITH_HOST = {"submit", "status", "logs", "cancel", "terminate"}
"""Verbs that take --cluster or --application."""

WITH_WORK = {"logs", "cancel"}
"""Verbs that take --step or --job-run."""

WITH_PLAN = {"deploy", "package", "submit"}
"""Verbs that need all settings; the others need only the section [place]."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the verb and its flags."""
    parser = Parser(prog="python -m emr", description="Spark jobs of this project on Amazon EMR.")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, verb in VERBS.items():
        command = commands.add_parser(name, help=verb.help, description=f"{verb.help[0].upper()}{verb.help[1:]}.")
        if name in WITH_HOST:
            default = "all of yours" if name == "terminate" else "your newest"
            text = f"a cluster, such as j-1ABC, or an application (default: {default})"
            command.add_argument("--cluster", "--application", metavar="ID", dest="host", help=text)
        if name in WITH_WORK:
            text = "a step, such as s-1ABC, or a job run (default: the newest)"
            command.add_argument("--step", "--job-run", metavar="ID", dest="work", help=text)
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
        host=getattr(arguments, "host", None) or "",
        work=getattr(arguments, "work", None) or "",
        run=getattr(arguments, "run", None) or "",
    )
    verb = VERBS[arguments.verb]
    is_dry = arguments.dry_run or os.environ.get("DRY_RUN", "") not in ("", "0", "no", "false")
    if not is_dry:
        return verb.run(context)
    return (verb.on_serverless if settings.target == SERVERLESS else verb.on_ec2)(context)


if __name__ == "__main__":
    raise SystemExit(main())
