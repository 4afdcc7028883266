"""The value of --features: which maps follow each other, and how they are learnt from a sample of images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from common.arrays import Pixels
from common.data.images import Images
from common.errors import InputError
from common.features.chain import Chain
from common.features.feature_map import BATCH_ROWS, FeatureMap
from common.features.landmarks import learn as learn_landmarks
from common.features.patches import PatchesRecipe
from common.features.pixels import PIXELS

FIXED: dict[str, FeatureMap] = {
    "pixels": PIXELS,
}
"""Maps that learn nothing, by their names in --features. A new map of this kind adds one line here."""

FORMS = ", ".join([*FIXED, "patches:F", "landmarks:D", "patches:F+landmarks:D or from:PATH"])
"""The forms of a spec, for help texts and messages."""

FROM = "from:"
"""The prefix of a spec that names a file whose map is used, so that none is learnt."""

SAMPLE = 4_000
"""Images that filters are learnt from."""
WIDTH = 0.72
"""Width of the kernel of landmarks, as a share of their median squared distance."""

MOST = 65_536
"""The largest number of filters or landmarks."""

PART = re.compile(r"(?P<kind>[a-z]+):(?P<count>\d+)(?P<options>(?:,[a-z]+(?:=[\d.]+)?)*)")


class Learnable(Protocol):
    """A recipe for a map of images."""

    def learn(self, sample: Pixels, seed: int) -> FeatureMap:
        """Learn the map from images in random order, uint8 (n, height, width, channels)."""
        ...


class LandmarksRecipe(NamedTuple):
    """The number of landmarks, and the width of their kernel as a share of the median squared distance."""

    n: int
    width: float = WIDTH


@dataclass(frozen=True)
class FeatureSpec:
    """A parsed spec.

    Attributes:
        text: the spec.
        fixed: a map that learns nothing, or None.
        first: how the map of images is learnt, or None.
        landmarks: the landmarks that follow, or None.
        path: a run folder or a moments file whose map is to be used, or None.
    """

    text: str
    fixed: FeatureMap | None = None
    first: Learnable | None = None
    landmarks: LandmarksRecipe | None = None
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> FeatureSpec:
        """Parse a spec.

        Raises:
            ValueError: it is none.
        """
        if text.startswith(FROM) and text != FROM:
            return cls(text, path=Path(text.removeprefix(FROM)))
        if text in FIXED:
            return cls(text, FIXED[text])
        words = text.split("+")
        parts = [_part(word) for word in words]
        kinds = [kind for kind, _, _ in parts]
        if kinds not in (["patches"], ["landmarks"], ["patches", "landmarks"]):
            raise ValueError(f"{text!r} is none of {FORMS}")
        first, landmarks = None, None
        for kind, count, options in parts:
            if kind == "patches":
                first = _patches(count, options)
            elif kind == "landmarks":
                landmarks = LandmarksRecipe(count, float(options.pop("width", WIDTH)))
            if options and kind != "patches":
                raise ValueError(f"{text!r}: {kind} has no option {next(iter(options))}")
        return cls(text, None, first, landmarks)

    def learn(self, images: Images, seed: int) -> FeatureMap:
        """Learn the map from a sample of training images, which validate none.

        Raises:
            InputError: it does not fit the images, or none of them can be used.
        """
        if self.fixed is not None:
            return self.fixed
        count = max(SAMPLE, self.landmarks.n if self.landmarks else 0)
        sample = images.sample(count, seed)
        if not len(sample):
            raise InputError(f"--features {self.text}: no training image can be used to learn from")
        try:
            first = PIXELS if self.first is None else self.first.learn(sample[:SAMPLE], seed)
        except ValueError as error:
            raise InputError(f"--features {self.text}: {error}; use larger images") from error
        if self.landmarks is None:
            return first
        if len(sample) < self.landmarks.n:
            raise InputError(
                f"--features {self.text}: {len(sample):,} training images are too few for as many landmarks; "
                f"use landmarks:{len(sample)} or fewer"
            )
        rows = [first(sample[start : start + BATCH_ROWS]) for start in range(0, self.landmarks.n, BATCH_ROWS)]
        n, width = self.landmarks
        return Chain(first, learn_landmarks(np.concatenate(rows), n, width, seed))


def _part(word: str) -> tuple[str, int, dict[str, str]]:
    match = PART.fullmatch(word)
    if match is None:
        raise ValueError(f"{word!r} is none of {FORMS}")
    count = int(match["count"])
    if not 1 <= count <= MOST:
        raise ValueError(f"{word!r}: {count} is not from 1 to {MOST:,}")
    options = dict(option.partition("=")[::2] for option in match["options"].split(",") if option)
    return match["kind"], count, options


def _patches(count: int, options: dict[str, str]) -> PatchesRecipe:
    unknown = options.keys() - {"cells", "mirror"}
    if unknown:
        raise ValueError(f"patches has no option {min(unknown)}; it has cells=N and mirror")
    cells = options.get("cells")
    if cells is not None and not (cells.isdecimal() and 1 <= int(cells) <= 16):
        raise ValueError(f"cells={cells} is not a whole number from 1 to 16")
    return PatchesRecipe(count, int(cells) if cells else None, "mirror" in options)
