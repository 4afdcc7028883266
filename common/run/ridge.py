"""A run of a ridge job: from flags to a problem, and from a fit to a run folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.atomic import write_json
from common.console import Console
from common.data.catalogue import Skipped, write_skipped
from common.data.decode import PixelFormat
from common.data.images import Block, Images
from common.data.labelled import check_skipped, warn_of_splits
from common.data.sources import check_classes, open_table
from common.data.splits import FoldRule
from common.errors import InputError
from common.evaluate.evaluation import Evaluation
from common.features.augmentation import AS_IT_IS
from common.features.feature_map import FeatureMap
from common.features.spec import FeatureSpec
from common.features.stored import StoredFeatures
from common.provenance import Engine, command, versions
from common.ridge.fit import MAX_MOMENTS_BYTES, Fit, Problem
from common.ridge.model import RidgeModel
from common.ridge.scoring import evaluate
from common.run.announcement import announce
from common.run.features import feature_map, with_network
from common.run.flags import named_splits, others_named, pixel_format, refuse_beside_table
from common.run.folder import RunFolder

if TYPE_CHECKING:
    from common.data.table.table import Table


LARGE_SYSTEM = 9_000
"""The number of features from which a run warns of the time that its systems take."""


class Tested(NamedTuple):
    """A model scored on test images.

    Attributes:
        evaluation: the scores compared with the true classes.
        skipped: test images that could not be used.
    """

    evaluation: Evaluation
    skipped: Sequence[Skipped]


@dataclass(frozen=True)
class RidgeRun:
    """One run of a ridge job.

    Attributes:
        job: the name of the job.
        arguments: its flags.
        console: progress and clock.
        folder: the run folder to be.
        problem: what to fit.
        test: test images.
        split: what decides the split and fold of an image.
        spec: how the features were learnt.
        quarantined: the number of images that were skipped when their table was made.
        ignored: the number of files beside the images that are none.
    """

    job: str
    arguments: argparse.Namespace
    console: Console
    folder: RunFolder
    problem: Problem
    test: Images
    split: str
    spec: str
    quarantined: int = 0
    ignored: int = 0

    @classmethod
    def open(
        cls,
        job: str,
        arguments: argparse.Namespace,
        complete: bool = True,
        most_moments: int = MAX_MOMENTS_BYTES,
    ) -> RidgeRun:
        """Open the data, split it, and check that there is something to learn.

        Args:
            job: the name of the job.
            arguments: its flags.
            complete: False if --data holds only some of the images that the job fits, so that classes may be
                missing.
            most_moments: the largest size of all moments in bytes that the engine can hold.

        Raises:
            InputError: flags or data are wrong.
        """
        console = Console(arguments.quiet)
        folder = _new_folder(job, arguments)
        rule = FoldRule(arguments.folds, arguments.validation)
        train: Images
        test: Images
        with console.phase("open"):
            wanted = arguments.features and with_network(arguments.features)
            quarantined = ignored = 0
            split = _split_by(arguments)
            table = open_table(arguments.data)
            if table is not None:
                refuse_beside_table(arguments, "predict.py")
                check_classes(arguments.data, table.class_names)
                train, test = _split_table(table, arguments, rule, pixel_format(arguments))
                quarantined = table.quarantined
                split = "the hash of each group" if table.grouped else "the hash of each name"
                ignored = table.n_ignored
            else:
                train, test = named_splits(arguments, rule, pixel_format(arguments, wanted), console)
                ignored = sum(train.catalogue.ignored.values())
            warn_of_splits(console, arguments.limit, train, unseen=complete)
        with console.phase("learn features"):
            problem = Problem(
                images=train,
                augmentation=arguments.augment,
                rule=rule,
                lambdas=tuple(arguments.lambdas),
                penalty=arguments.penalty,
                max_skipped=arguments.max_corrupt,
                most_kept=round(arguments.keep * 2**20),
                most_moments=most_moments,
            )
            features, spec = _chosen_features(arguments, wanted, table, problem, console)
        problem = replace(problem, features=features)
        problem.check_size()
        warn_of_large_systems(console, problem)
        return cls(job, arguments, console, folder, problem, test, split, spec, quarantined, ignored)

    def as_job(self, job: str) -> RidgeRun:
        """Return the same run under the name of another job, which was chosen after it was opened."""
        return replace(self, job=job, folder=_new_folder(job, self.arguments))

    def load_test(self) -> Block:
        """Read the test images into this process, with a progress bar.

        Raises:
            InputError: too many images had to be skipped.
        """
        with self.console.phase("read"), self.console.bar(len(self.test), "img") as advance:
            loaded = self.test.load(advance, names=True)
        self.check_test(loaded.skipped)
        return loaded

    def check_test(self, skipped: Sequence[Skipped]) -> None:
        """Make sure that not too many test images were skipped.

        Raises:
            InputError: there are more than --max-corrupt allows; the message lists them.
        """
        check_skipped(skipped, len(self.test), "test", self.problem.max_skipped)

    def evaluate(self, model: RidgeModel, test: Block) -> Tested:
        """Score a model on test images that `load_test` read."""
        with self.console.phase("test"):
            return Tested(evaluate(self.problem.scoring(model), test), test.skipped)

    def finish(self, engine: Engine, fit: Fit, tested: Tested, **more: Any) -> str:
        """Write the run folder, and print where its report is.

        Args:
            engine: what the job ran on.
            fit: the fitted model.
            tested: its scores on the test images.
            more: further entries of metrics.json.

        Returns:
            the path or address of report.html.

        Raises:
            InputError: no test image could be used.
            RunError: the folder cannot be written.
        """
        from common.report.ridge import write_report  # matplotlib: only the process that writes a report loads it

        tested = tested._replace(evaluation=self._with_thumbnails(tested.evaluation))
        skipped = [*sorted(fit.skipped), *sorted(tested.skipped)]
        record = self._record(engine, fit, tested.evaluation, len(skipped)) | fit.details | more
        with self.folder.written() as folder:
            with self.console.phase("report"):
                fit.model.save(folder)
                if skipped:
                    write_skipped(folder / "skipped.csv", skipped)
                record["seconds"] = self._seconds()
                write_report(folder, record, fit.model, tested.evaluation, skipped)
            record["seconds"] = self._seconds()
            write_json(folder / "metrics.json", record)
        return self._announce(record, len(skipped))

    def _with_thumbnails(self, evaluation: Evaluation) -> Evaluation:
        """Put pictures in the place of stored features in the mistakes, where the table has them."""
        found = self.test.thumbnails({mistake.name for mistake in evaluation.mistakes})
        damaged = sum(pixels is None for pixels in found.values())
        if damaged:
            self.console.warn(f"{damaged} thumbnails of mistakes cannot be read; the report names these images")
        mistakes = [
            mistake if (pixels := found.get(mistake.name)) is None else mistake._replace(pixels=pixels)
            for mistake in evaluation.mistakes
        ]
        return replace(evaluation, mistakes=mistakes)

    def _record(self, engine: Engine, fit: Fit, evaluation: Evaluation, n_skipped: int) -> dict[str, Any]:
        """Return the entries of metrics.json."""
        confusion, problem = evaluation.confusion, self.problem
        if not confusion.n:
            raise InputError("no usable test image is left; mend the images or use a larger --test")
        by_class = confusion.by_class()
        record: dict[str, Any] = {
            "job": self.job,
            "engine": engine.name,
            "command": command(),
            "data": self.arguments.data,
            **others_named(self.arguments),
            "images": {
                "train": fit.n_fitted if problem.rule.k else fit.n_fitted - fit.n_validation,
                "validation": fit.n_validation,
                "test": confusion.n,
                "skipped": n_skipped,
                "quarantined": self.quarantined,
                "ignored": self.ignored,
            },
            "shape": list(problem.image_shape),
            "pixel_format": str(problem.images.pixel_format),
            "features": problem.features.describe() | {"spec": self.spec},
            "n_features": problem.n_features,
            "augment": str(problem.augmentation),
            "products": sorted(fit.products),
            "classes": list(problem.images.class_names),
            "penalty": problem.penalty,
            "folds": problem.rule.k,
            "lambdas": list(problem.lambdas),
            "validation_correct": [int(count) for count in fit.correct],
            "validation_accuracy": [int(count) / max(fit.n_validation, 1) for count in fit.correct],
            "best_lambda": fit.model.lambda_,
            "test_accuracy": confusion.accuracy(),
            "macro_f1": by_class.macro_f1(),
            "confusion": confusion.described(),
            "per_class": {
                "precision": by_class.precision.tolist(),
                "recall": by_class.recall.tolist(),
                "sign_precision": evaluation.signs.precision.tolist(),
                "sign_recall": evaluation.signs.recall.tolist(),
                "test_images": by_class.true.tolist(),
            },
            "workers": engine.workers,
            "threads": engine.threads,
            "seed": self.arguments.seed,
            "versions": versions(),
        }
        found = fit.fingerprint()
        return record if found is None else record | {"moments_sha256": found}

    def _seconds(self) -> dict[str, float]:
        return self.console.seconds | {"total": self.console.total_seconds()}

    def _announce(self, record: dict[str, Any], n_skipped: int) -> str:
        """Print what was found, and return where the report is."""
        report = self.folder.file("report.html")
        if n_skipped:
            count = "1 image was" if n_skipped == 1 else f"{n_skipped} images were"
            self.console.warn(f"{count} skipped; {self.folder.file('skipped.csv')} lists them")
        images = record["images"]
        n_fitted = images["train"] + (0 if record["folds"] else images["validation"])
        self.console.say(
            f"{self.job} on {record['engine']}: {n_fitted:,} training and {images['test']:,} test images from "
            f"{record['data']}"
        )
        self.console.say(
            f"best λ {record['best_lambda']:.3g}: {max(record['validation_accuracy']):.4f} of validation, "
            f"{record['test_accuracy']:.4f} of test images correct"
        )
        announce(report, self.arguments, self.console)
        return report


def _chosen_features(
    arguments: argparse.Namespace,
    wanted: FeatureSpec | None,
    table: Table | None,
    problem: Problem,
    console: Console,
) -> tuple[FeatureMap, str]:
    """Return the map of --features or of a table of features, and how it was learnt.

    Raises:
        InputError: it cannot be read, or does not fit the images or the flags.
    """
    stored = None if table is None else _map_of_table(table, arguments)
    if stored is not None and table is not None and table.features is not None:
        return stored, str(table.features["spec"])
    train = problem.images
    spec, reason = (wanted or FeatureSpec.parse("pixels")).for_images(train)
    if spec.path is None:
        problem.check_width(spec.n_features(train.shape))
    if reason:
        console.say(f"--features {spec.text}: {reason}")
    return feature_map(spec, train, arguments.seed), spec.text


def _map_of_table(table: Table, arguments: argparse.Namespace) -> StoredFeatures | None:
    """Return the map of a table of features; None for a table of images.

    Raises:
        InputError: flags ask for what only pixels allow.
    """
    from common.features.table import map_of_table  # pyarrow, as above

    found = map_of_table(table)
    if found is not None and table.features is not None:
        holds = f"--data {arguments.data}: it holds the features {table.features['spec']}"
        if arguments.features is not None:
            raise InputError(f"{holds} and no pixels; leave out --features")
        if arguments.augment != AS_IT_IS:
            raise InputError(f"{holds} and no pixels, of which there are no variants; leave out --augment")
    return found


def warn_of_large_systems(console: Console, problem: Problem) -> None:
    """Warn if systems of d equations will take minutes to solve."""
    d = problem.n_features
    if d >= LARGE_SYSTEM:
        console.warn(
            f"{d:,} features: systems of so many equations, one per fold, take minutes to solve; "
            "--size, --grey and fewer --features make them smaller"
        )


def _new_folder(job: str, arguments: argparse.Namespace) -> RunFolder:
    out: Path | str | None = arguments.out
    return RunFolder(out, f"{job}-{arguments.data.partition(':')[0]}")


def _split_by(arguments: argparse.Namespace) -> str:
    """Return the flags that decide about the split and fold of an image, for moments files."""
    flags = [
        f"--seed {arguments.seed}",
        f"--test {arguments.test:g}" if arguments.test_data is None else "--test-data",
    ]
    flags += [] if arguments.validation_data is None else ["--validation-data"]
    flags += [] if arguments.group_column is None else ["--group-column"]
    return " ".join(flags)


def _split_table(
    table: Table, arguments: argparse.Namespace, rule: FoldRule, chosen: PixelFormat
) -> tuple[Images, Images]:
    """Return the training and test images of a table, whose splits follow from the names of images.

    Raises:
        InputError: the table has another pixel format than the flags ask for, or a split is empty.
    """
    # Imported here, because workers that read other sources need no pyarrow.
    from common.data.table.reading import split_table

    if chosen not in (PixelFormat(), table.pixel_format):
        raise InputError(
            f"--data {arguments.data}: its images are {table.pixel_format}, not {chosen}; "
            "--size, --grey and --binarize are for ingest.py"
        )
    return split_table(table, arguments.data, rule, arguments.limit)
