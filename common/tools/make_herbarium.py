"""`python -m common.tools.make_herbarium folder:IMAGES OUT`: write a folder in the style of Herbarium 2021.

    OUT/train/metadata.json    images, categories, and annotations that join them
    OUT/train/images/CCC/CC/   unchanged files; CCC/CC is the number of their category
    OUT/test/metadata.json     images without annotations
    OUT/test/images/CCC/CC/    files; CCC/CC is their number, without its last two digits
    OUT/truth.csv              Id,Predicted: a perfect submission for the test images

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
from common.data.decode import PixelFormat
from common.data.pillow import UndecodableImageError, header
from common.data.sources import SOURCES, open_labelled
from common.data.sources.files import FileReader
from common.data.sources.source import PathSource
from common.data.sources.tree import LocalTree, read_file
from common.data.splits import hold_out
from common.errors import InputError
from common.run.exits import run_job
from common.run.flags import quiet_flag, seed_flags
from common.run.folder import RunFolder
from common.run.parser import Help, Parser

MOST_CATEGORIES = 100_000
"""As many categories as the five digits of CCC/CC distinguish."""


class CopiedImage(NamedTuple):
    """An image in the new folder.

    Attributes:
        label: its class.
        record: its record in the metadata.
    """

    label: int
    record: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, and copy the images of a source into a new folder."""
    sources = [source for source in SOURCES if isinstance(source, PathSource)]
    specs = " or ".join(source.spec for source in sources)
    parser = Parser(
        description="Copy labelled images into a folder in the style of Herbarium 2021.", formatter_class=Help
    )
    parser.add_argument("source", metavar="SPEC", help=specs)
    parser.add_argument("out", metavar="OUT", type=Path, help="the new folder")
    seed_flags(parser)
    quiet_flag(parser)
    arguments = parser.parse_arguments(argv)
    if all(source.kind != arguments.source.partition(":")[0] for source in sources):
        raise InputError(f"{arguments.source}: its images are no files; use {specs}")
    images = open_labelled(arguments.source, Path(), PixelFormat()).everything
    if len(images.class_names) > MOST_CATEGORIES:
        raise InputError(f"{arguments.source}: more than {MOST_CATEGORIES:,} classes")
    folder = RunFolder(arguments.out, "herbarium", "OUT")
    console = Console(arguments.quiet)
    n_train, n_test = _write(folder, images, arguments.test, arguments.seed, console)
    console.say(f"{n_train:,} training and {n_test:,} test images in {len(images.class_names):,} categories")
    print(f"folder: {folder.path}")
    return 0


def _write(
    folder: RunFolder, images: Catalogue, test_fraction: float, seed: int, console: Console
) -> tuple[int, int]:
    """Write the folder, and return the numbers of training and of test images."""
    split = hold_out(images.labels, test_fraction, seed, "test")
    # shuffled, because the numbers of test images must not reveal their classes
    shuffled = np.random.default_rng(seed).permutation(split.held_out)
    with folder.written() as staging, console.bar(len(images), "img") as advance:
        train = _copy(images.take(split.rest), staging / "train", True, console, advance)
        test = _copy(images.take(shuffled), staging / "test", False, console, advance)
        annotations = [
            {"id": image.record["id"], "image_id": image.record["id"], "category_id": image.label}
            for image in train
        ]
        categories = [{"id": label, "name": name} for label, name in enumerate(images.class_names)]
        _write_metadata(staging / "train", train, categories=categories, annotations=annotations)
        _write_metadata(staging / "test", test)
        truth = io.StringIO(newline="")
        csv.writer(truth).writerows([("Id", "Predicted"), *((image.record["id"], image.label) for image in test)])
        with write_atomically(staging / "truth.csv") as file:
            file.write(truth.getvalue().encode(*READABLE))
    return len(train), len(test)


def _copy(
    images: Catalogue, folder: Path, by_class: bool, console: Console, advance: Callable[[int], object]
) -> list[CopiedImage]:
    """Copy image files into sub-folders by class or by hundreds, and warn of files that are no images.

    Raises:
        InputError: the images are no files.
    """
    tree = images.reader.tree if isinstance(images.reader, FileReader) else None
    if not isinstance(tree, LocalTree):
        raise InputError("the source's images are no files")
    copied: list[CopiedImage] = []
    for name, label in zip(images.items, images.labels.tolist(), strict=True):
        advance(1)
        path, number = tree.root / name, len(copied)
        try:
            found = header(io.BytesIO(read_file(path)))
        except UndecodableImageError as error:
            console.warn(f"{path}: left out ({error})")
            continue
        group = label if by_class else number // 100
        file_name = f"images/{group // 100:03d}/{group % 100:02d}/{number}{path.suffix.lower()}"
        (folder / file_name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / file_name)
        record = {"id": number, "file_name": file_name, "width": found.width, "height": found.height}
        copied.append(CopiedImage(label, record))
    return copied


def _write_metadata(folder: Path, copied: Sequence[CopiedImage], **tables: Any) -> None:
    info = {"description": "images in the style of Herbarium 2021"}
    write_json(folder / "metadata.json", {"info": info, "images": [image.record for image in copied], **tables})


if __name__ == "__main__":
    run_job(main)
