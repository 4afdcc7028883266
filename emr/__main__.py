"""`python -m emr VERB`: the project's jobs on Amazon EMR. `make emr-VERB` is the same."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from common.run.flags import Parser
from emr import verbs
from emr.follow import CANCELLED, DONE, WRONG
from emr.package import ROOT
from emr.settings import SECTIONS, load_settings, settings_flags
from emr.terminal import Terminal

VERBS = {
    "deploy": (verbs.deploy, "everything: package, upload, find or start a cluster, run, fetch, terminate"),
    "package": (verbs.package, "make the archives, and upload nothing"),
    "submit": (verbs.submit, "run a job on a cluster that is there, and leave it there"),
    "status": (verbs.status, "how a cluster and its steps are"),
    "logs": (verbs.logs, "what a step's logs say"),
    "fetch": (verbs.fetch, "bring a run folder to this machine"),
    "cancel": (verbs.cancel, "cancel a step"),
    "terminate": (verbs.terminate, "terminate your clusters, or one"),
    "list": (verbs.everything, "all clusters, run folders and other objects of this project"),
}
ON_CLUSTERS = {"submit", "status", "logs", "cancel", "terminate"}
ON_STEPS = {"logs", "cancel"}
PLANNED = {"deploy", "package", "submit"}
"""Those for which more matters than the place."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The verb and its flags."""
    parser = Parser(prog="python -m emr", description="Spark jobs of this project on Amazon EMR.")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, (_, what) in VERBS.items():
        own = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        if name in ON_CLUSTERS:
            which = "all of yours" if name == "terminate" else "your newest"
            own.add_argument("--cluster", metavar="ID", help=f"such as j-1ABC (default: {which})")
        if name in ON_STEPS:
            own.add_argument("--step", metavar="ID", help="such as s-1ABC (default: its newest)")
        if name == "fetch":
            own.add_argument("--run", metavar="NAME", help="of a run folder (default: the newest)")
        own.add_argument("--dry-run", action="store_true", help="print what AWS would be asked, and do nothing")
        own.add_argument("--quiet", action="store_true", help="print nothing but results and errors")
        settings_flags(own, SECTIONS if name in PLANNED else ("place",))
    return parser.parse_arguments(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, and do what the verb says."""
    arguments = parse(argv)
    person = Terminal(arguments.quiet)

    def terminated(_signal: int, _frame: object) -> None:
        """SIGTERM is a Ctrl-C that asks nothing."""
        person.asks = False
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    try:
        settings = load_settings(arguments, os.environ)
        if arguments.verb in PLANNED:
            settings.check()
            verbs.check_flags(settings.job, settings.words)
        context = verbs.Context(
            settings,
            person,
            data_root=Path(os.environ.get("IMAGE_DATA_ROOT") or "data"),
            packages=ROOT / "dist" / "emr",
            dry_run=arguments.dry_run or os.environ.get("DRY_RUN", "") not in ("", "0", "no", "false"),
            cluster=getattr(arguments, "cluster", None) or "",
            step=getattr(arguments, "step", None) or "",
            run=getattr(arguments, "run", None) or "",
        )
        code = VERBS[arguments.verb][0](context)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except OSError as error:
        print(f"emr {arguments.verb}: {error}", file=sys.stderr)
        return WRONG
    except InputError as error:
        print(f"emr {arguments.verb}: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print(f"emr {arguments.verb}: interrupted; `make emr-list` shows what runs", file=sys.stderr)
        return CANCELLED


if __name__ == "__main__":
    raise SystemExit(main())
