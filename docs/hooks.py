"""Hooks of mkdocs: generate the reference of flags from the parsers of the jobs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = "reference/flags.md"
MARK = "<!-- flags of all jobs -->"

JOBS = {
    "spark_jobs.serial": "python spark_jobs/serial.py",
    "spark_jobs.gram": "spark-submit spark_jobs/gram.py",
    "spark_jobs.outer": "spark-submit spark_jobs/outer.py",
    "spark_jobs.inner": "spark-submit spark_jobs/inner.py",
    "spark_jobs.ridge": "spark-submit spark_jobs/ridge.py",
    "spark_jobs.ingest": "spark-submit spark_jobs/ingest.py",
    "spark_jobs.predict": "spark-submit spark_jobs/predict.py",
    "mpi_jobs.ridge_data_parallel": "mpiexec -n P python mpi_jobs/ridge_data_parallel.py",
    "mpi_jobs.ridge_model_parallel": "mpiexec -n P python mpi_jobs/ridge_model_parallel.py",
    "mpi_jobs.train_cnn": "mpiexec -n P python mpi_jobs/train_cnn.py",
    "mpi_jobs.predict_cnn": "mpiexec -n P python mpi_jobs/predict_cnn.py",
    "mpi_jobs.profile_cnn": "mpiexec -n P python mpi_jobs/profile_cnn.py",
}
"""How each job is started, by the name of its module."""

PARSERS = {
    "mpi_jobs.train_cnn": ("mpi_jobs.training.flags", "training_parser"),
    "mpi_jobs.predict_cnn": ("mpi_jobs.pipeline.flags", "prediction_parser"),
    "mpi_jobs.profile_cnn": ("mpi_jobs.pipeline.flags", "profile_parser"),
}
"""Where the parser of a job is if not in the function `parser` of its module."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the flags of all jobs into their page of the reference."""
    if page.file.src_uri != PAGE:
        return markdown
    return markdown.replace(MARK, "\n\n".join(section(job) for job in JOBS))


def section(job: str) -> str:
    """Describe the flags of a job in Markdown: a heading, the command, and a table per group of flags."""
    parser = parser_of(job)
    lines = [f"## {job.rpartition('.')[2]}", "", parser.description or "", "", "```text", JOBS[job], "```", ""]
    for title, actions in groups(parser):
        lines += [f"**{title}**", "", "| flag | default | meaning |", "|---|---|---|"]
        lines += [row(action, parser) for action in actions]
        lines.append("")
    return "\n".join(lines)


def parser_of(job: str) -> argparse.ArgumentParser:
    """Return the parser of a job, with defaults that do not depend on this machine."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    data_root = os.environ.pop("IMAGE_DATA_ROOT", None)
    try:
        module, function = PARSERS.get(job, (job, "parser"))
        parser: argparse.ArgumentParser = getattr(importlib.import_module(module), function)()
    finally:
        if data_root is not None:
            os.environ["IMAGE_DATA_ROOT"] = data_root
    return parser


def groups(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    """Yield the title and the flags of each group that has any besides --help."""
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if actions:
            yield group.title or "options", actions


def row(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """Describe one flag as a row of a Markdown table."""
    values = "" if action.nargs == 0 else value_of(action)
    names = [f"`{name}{values}`" for name in action.option_strings] or [f"`{action.metavar or action.dest}`"]
    meaning = (action.help or "") % {**vars(action), "prog": parser.prog}
    return f"| {', '.join(names)} | {default_of(action)} | {escaped(meaning)} |"


def value_of(action: argparse.Action) -> str:
    """Describe the value that a flag takes."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return ""
    if action.choices is not None:
        return f" {{{','.join(map(str, action.choices))}}}"
    return f" {action.metavar or action.dest.upper()}"


def default_of(action: argparse.Action) -> str:
    """Describe the default of a flag; empty where it has none."""
    if action.required or not action.option_strings:
        return "required"
    if action.default is None or action.default is False or action.default in (argparse.SUPPRESS, []):
        return ""
    return f"`{'on' if action.default is True else action.default}`"


def escaped(text: str) -> str:
    """Escape what Markdown and HTML would take for markup."""
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("[", "\\[")):
        text = text.replace(letter, entity)
    return text
