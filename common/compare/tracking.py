"""Runs as MLflow keeps them: parameters, metrics by epoch or λ, and the files of the run folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.errors import InputError, RunError
from common.report.runs import METRICS, Run

EXPERIMENT = "parallel-image-classification"
"""The experiment that runs are logged to, unless MLFLOW_EXPERIMENT_NAME names another."""

DIGEST = "metrics_sha256"
"""The tag by which a run is known again: the SHA-256 of its metrics.json."""

DONE = "FINISHED"

MOST_AT_ONCE = 1_000
"""Metrics that one request may carry, as MLflow has it."""

MOST_PARAMETERS = 100
"""Parameters that one request may carry."""

LONGEST = 500
"""Letters of a parameter, which all servers take."""

DEFAULTS = {
    # A folder is asked for by name here, although MLflow would rather have a database.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    # MLflow's own patience with a server that is not there is minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Settings of MLflow's, unless the environment says otherwise."""


def log_runs(runs: Sequence[Run], uri: str) -> int:
    """Log runs to MLflow, but for those that have been.

    Args:
        runs: the runs.
        uri: of MLflow's tracking server, or a folder.

    Returns:
        the number of runs that were logged.

    Raises:
        InputError: MLflow is not installed, or takes no such address.
        RunError: it cannot be reached, or refuses something.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise InputError("--mlflow: MLflow is not installed; make setup PARTS=mlflow") from error
    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = _experiment(client)
        # the oldest first, so that the order of MLflow's list is that of the runs
        return sum(_log(client, experiment, run) for run in reversed(runs))
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        if "unsupported URI" in reason:
            raise InputError(
                f"--mlflow {uri}: give the http:// address of a tracking server, or a folder"
            ) from error
        raise RunError(f"--mlflow {uri}: {reason}") from error
    except OSError as error:
        raise RunError(f"--mlflow {uri}: {error.strerror or error}") from error


def _experiment(client: Any) -> str:
    """Return the id of the experiment, which is made if it is not there."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _log(client: Any, experiment: str, run: Run) -> bool:
    """Log a run, and return False if it has been."""
    from mlflow.entities import Metric, Param

    content = (run.folder / METRICS).read_bytes()
    digest, record = hashlib.sha256(content).hexdigest(), json.loads(content)
    before = client.search_runs([experiment], f"tags.{DIGEST} = '{digest}'")
    if any(one.info.status == DONE for one in before):
        return False
    for one in before:  # what an interrupted attempt has left
        client.delete_run(one.info.run_id)
    ended = round(run.finished * 1000)
    started = ended - round(1000 * (run.seconds or 0))
    tags = {DIGEST: digest, "run_folder": str(run.folder.resolve()), "command": run.command}
    logged = client.create_run(experiment, start_time=started, tags=tags, run_name=run.name).info.run_id
    metrics = [Metric(key, value, ended, step) for key, value, step in _metrics(record) if math.isfinite(value)]
    for start in range(0, len(metrics), MOST_AT_ONCE):
        client.log_batch(logged, metrics=metrics[start : start + MOST_AT_ONCE])
    parameters = [Param(key, value[:LONGEST]) for key, value in _parameters(run, record).items()]
    for start in range(0, len(parameters), MOST_PARAMETERS):
        client.log_batch(logged, params=parameters[start : start + MOST_PARAMETERS])
    client.log_artifacts(logged, str(run.folder))
    client.set_terminated(logged, DONE, ended)
    return True


def _parameters(run: Run, record: Mapping[str, Any]) -> dict[str, str]:
    """Return what was asked for: words, whole numbers and switches, those of a training's recipe as well."""
    plain = {**(record.get("recipe") or {}), **record, "model": run.model}
    found = {key: str(value) for key, value in plain.items() if isinstance(value, str | bool | int)}
    counts = {f"images.{key}": str(value) for key, value in (record.get("images") or {}).items()}
    return {key: value for key, value in (found | counts).items() if key != "command"}


def _metrics(record: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Yield what was found: (name, value, step), with a step for each λ and each epoch."""
    for key, value in record.items():
        if isinstance(value, float):
            yield key, value, 0
    for phase, value in (record.get("seconds") or {}).items():
        yield f"seconds.{phase}", value, 0
    lambdas, accuracies = record.get("lambdas") or (), record.get("validation_accuracy")
    if isinstance(accuracies, list):
        for step, (lambda_, accuracy) in enumerate(zip(lambdas, accuracies, strict=True)):
            yield "lambda", lambda_, step
            yield "validation_accuracy", accuracy, step
    for step, epoch in enumerate(record.get("epochs") or (), start=1):
        for key, value in epoch.items():
            if isinstance(value, float):
                yield f"epoch.{key}", value, step
