"""`python -m common.tools.make_herbarium folder:IMAGES OUT`: a folder in the style of Herbarium 2021.

    OUT/train/metadata.json    images, categories, and annotations that join them
    OUT/train/images/CCC/CC/   the files as they are, CCC/CC being the number of their category
    OUT/test/metadata.json     images without annotations
    OUT/test/images/CCC/CC/    files, CCC/CC being the hundred of their number
    OUT/truth.csv              Id,Predicted: what a perfect submission for the test images would be

Training jobs read it by --data herbarium:OUT.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.atomic import READABLE, write_atomically, write_json
from common.console import Console
from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat, UndecodableImageError, header
from common.data.sources import AT_PATH, open_dataset
from common.data.sources.files import FileReader
from common.data.splits import hold_out
from common.errors import InputError
from common.run.exits import run_job
from common.run.flags import Help, Parser, quiet_flag, seed_flags
from common.run.folder import RunFolder

MOST_CATEGORIES = 100_000
"""As many as the five digits of CCC/CC can tell apart."""


class Copied(NamedTuple):
    """An image in the new folder.

    Attributes:
        label: its class.
        record: what the metadata say of it.
    """

    label: int
    record: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Copy the images of a source into a new folder."""
    sources = " or ".join(f"{kind}:PATH" for kind in AT_PATH)
    parser = Parser(
        description="Copy labelled images into a folder in the style of Herbarium 2021.", formatter_class=Help
    )
    parser.add_argument("source", metavar="SPEC", help=sources)
    parser.add_argument("out", metavar="OUT", type=Path, help="the new folder")
    seed_flags(parser)
    quiet_flag(parser)
    arguments = parser.parse_arguments(argv)
    if arguments.source.partition(":")[0] not in AT_PATH:
        raise InputError(f"{arguments.source}: its images are no files; use {sources}")
    images, _ = open_dataset(arguments.source, Path(), PixelFormat())
    if len(images.class_names) > MOST_CATEGORIES:
        raise InputError(f"{arguments.source}: more than {MOST_CATEGORIES:,} classes")
    folder = RunFolder(arguments.out, "herbarium")
    console = Console(arguments.quiet)
    split = hold_out(images.labels, arguments.test, arguments.seed, "test")
    # the numbers of test images must not tell their classes
    shuffled = np.random.default_rng(arguments.seed).permutation(split.held_out)
    with folder.written() as staging, console.bar(len(images), "img") as advance:
        train = _copy(images.take(split.rest), staging / "train", True, console, advance)
        test = _copy(images.take(shuffled), staging / "test", False, console, advance)
        annotations = [
            {"id": image.record["id"], "image_id": image.record["id"], "category_id": image.label}
            for image in train
        ]
        categories = [{"id": label, "name": name} for label, name in enumerate(images.class_names)]
        _describe(staging / "train", train, categories=categories, annotations=annotations)
        _describe(staging / "test", test)
        truth = io.StringIO(newline="")
        csv.writer(truth).writerows([("Id", "Predicted"), *((image.record["id"], image.label) for image in test)])
        with write_atomically(staging / "truth.csv") as file:
            file.write(truth.getvalue().encode(*READABLE))
    console.say(f"{len(train):,} training and {len(test):,} test images in {len(images.class_names):,} categories")
    print(f"folder: {folder.path}")
    return 0


def _copy(
    images: Catalogue, folder: Path, by_class: bool, console: Console, advance: Callable[[int], object]
) -> list[Copied]:
    """Copy images that are files, below sub-folders by class or by hundreds; warn of those that are no images."""
    if not isinstance(images.reader, FileReader):
        raise TypeError("images that are no files")
    copied: list[Copied] = []
    for name, label in zip(images.items, images.labels.tolist(), strict=True):
        advance(1)
        path, number = images.reader.root / name, len(copied)
        try:
            found = header(path)
        except UndecodableImageError as error:
            console.warn(f"{path}: left out ({error})")
            continue
        group = label if by_class else number // 100
        file_name = f"images/{group // 100:03d}/{group % 100:02d}/{number}{path.suffix.lower()}"
        (folder / file_name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / file_name)
        copied.append(
            Copied(label, {"id": number, "file_name": file_name, "width": found.width, "height": found.height})
        )
    return copied


def _describe(folder: Path, copied: Sequence[Copied], **tables: Any) -> None:
    """Write metadata.json."""
    info = {"description": "images in the style of Herbarium 2021"}
    write_json(folder / "metadata.json", {"info": info, "images": [image.record for image in copied], **tables})


if __name__ == "__main__":
    run_job(main)
