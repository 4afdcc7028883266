"""The value of --features: which maps follow each other, and how they are learnt from a sample of images."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from common.arrays import Labels, Pixels
from common.data.decode import PixelFormat
from common.data.images import Sample
from common.errors import InputError
from common.features.chain import Chain
from common.features.default import default_spec
from common.features.feature_map import SAMPLE, FeatureMap, Shape, usable_features
from common.features.fourier import FourierRecipe
from common.features.generated import generated_images
from common.features.joined import Joined
from common.features.landmarks import LandmarksRecipe
from common.features.network import NetworkRecipe
from common.features.network_file import NetworkFile, NetworkRequest
from common.features.patches import PatchesRecipe
from common.features.pixels import PIXELS
from common.features.random_layer import WEIGHTS, RandomRecipe
from common.features.stage import StageRecipe
from common.int8 import MOST_INNER

FIXED: dict[str, FeatureMap] = {
    "pixels": PIXELS,
}
"""Maps that learn nothing, by their names in --features. A new map of this kind adds one line here."""

FROM = "from:"
"""The prefix of a spec that names a file whose map is used, so that none is learnt."""

AUTO = "auto"
"""The spec that chooses one by the size and the number of images."""

MOST = 65_536
"""The largest number of filters, landmarks and the like."""

PART = re.compile(r"(?P<kind>[a-z]+):(?P<count>[0-9]+)(?P<options>(?:,[^,]*)*)")
NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


class Options:
    """The options of a part of a spec, which are taken one by one.

    Args:
        kind: the kind of the part.
        text: a comma before each option.
    """

    def __init__(self, kind: str, text: str) -> None:
        self._kind = kind
        self._left: dict[str, str | None] = {}
        for option in text.split(",")[1:]:
            name, equals, value = option.partition("=")
            if name in self._left:
                raise ValueError(f"{name} of {kind} is given twice")
            self._left[name] = value if equals else None
        self._known: list[str] = []

    def flag(self, name: str) -> bool:
        """Return whether an option without a value is there."""
        self._known.append(name)
        if self._left.get(name) is not None:
            raise ValueError(f"{name} of {self._kind} takes no value")
        return self._left.pop(name, "") is None

    def number(self, name: str, least: float, most: float) -> float | None:
        """Return the value of an option in [least, most], or None if it is not there."""
        self._known.append(f"{name}=N")
        if name not in self._left:
            return None
        text = self._left.pop(name) or ""
        value = float(text) if NUMBER.fullmatch(text) else float("nan")
        if not least <= value <= most:
            raise ValueError(f"{name}={text} of {self._kind} is not a number from {least:g} to {most:g}")
        return value

    def whole(self, name: str, least: int, most: int) -> int | None:
        """Return the value of an option, a whole number in [least, most], or None if it is not there."""
        value = self.number(name, least, most)
        if value is not None and value != int(value):
            raise ValueError(f"{name}={value:g} of {self._kind} is not a whole number from {least} to {most}")
        return None if value is None else int(value)

    def check_empty(self) -> None:
        """Refuse options that nobody took."""
        if self._left:
            name = next(iter(self._left))
            if name == BLIND:
                raise ValueError(f"{BLIND} goes with the first part of a chain, and is for all of it")
            raise ValueError(f"{self._kind} has no option {name!r}; it has {', '.join(self._known)}")


class Sampled(Protocol):
    """Images that a sample can be taken of."""

    @property
    def shape(self) -> Shape:
        """The (height, width, channels) of every image."""
        ...

    @property
    def n_sampled(self) -> int:
        """About how many images `sample` could read."""
        ...

    def sample(self, n: int, seed: int) -> Sample:
        """Read up to n images, in an order that `seed` chooses."""
        ...


class Learnable(Protocol):
    """A recipe for a map of images."""

    @property
    def rows(self) -> int:
        """The number of images that it is learnt from, if there are as many."""
        ...

    def n_features(self, shape: Shape) -> int:
        """Return the number of features of an image of this shape, which are known before the map is learnt."""
        ...

    def learn(self, sample: Pixels, seed: int) -> FeatureMap:
        """Learn the map from images in random order, uint8 (n, height, width, channels)."""
        ...


def _patches(count: int, options: Options) -> PatchesRecipe:
    return PatchesRecipe(count, options.whole("cells", 1, 16), options.flag("mirror"))


def _landmarks(count: int, options: Options) -> LandmarksRecipe:
    width = options.number("width", 0.001, 1000)
    return LandmarksRecipe(count) if width is None else LandmarksRecipe(count, width)


def _fourier(count: int, options: Options) -> FourierRecipe:
    width, sigma = options.number("width", 0.001, 1000), options.number("sigma", 1, 1e6)
    if width is not None and sigma is not None:
        raise ValueError("fourier takes width or sigma, not both")
    return FourierRecipe(count, sigma=sigma) if width is None else FourierRecipe(count, width)


def _random(count: int, options: Options) -> RandomRecipe:
    chosen = [name for name in WEIGHTS if options.flag(name)]
    if len(chosen) > 1:
        raise ValueError(f"random takes one of {', '.join(WEIGHTS)}")
    return RandomRecipe(count, *chosen)


IMAGE_MAPS: dict[str, Callable[[int, Options], Learnable]] = {"patches": _patches}
"""Recipes of maps of images, which come first, by their names in --features."""

STAGES: dict[str, Callable[[int, Options], StageRecipe]] = {
    "landmarks": _landmarks,
    "fourier": _fourier,
    "random": _random,
}
"""Recipes of stages, which follow another map or the pixels, by their names in --features."""

NETWORK = "network:"
"""The prefix of a part that names a network, which comes first."""

FORMS = ", ".join(
    [*FIXED, *(f"{name}:N" for name in [*IMAGE_MAPS, *STAGES]), f"{NETWORK}NAME, {AUTO}, {FROM}PATH"]
)
"""The forms of a spec, for help texts and messages."""

BESIDE = "++"
"""The separator in a spec of maps whose features are put side by side."""

CHAINS = "chains such as patches:64+landmarks:4096, or two with ++ between them, side by side"

BLIND = "blind"
"""The option of the first part of a spec by which the whole map is learnt from generated images."""


@dataclass(frozen=True)
class FeatureSpec:
    """A parsed spec.

    Attributes:
        text: the spec.
        fixed: a map that learns nothing, or None.
        first: how the map of images is learnt; None for pixels.
        stages: how the stages behind it are learnt.
        blind: True to learn from generated images.
        network: a network that makes the first features, until `with_network` has it; or None.
        path: a run folder or a moments file whose map is to be used, or None.
        auto: True to choose the other attributes by the images.
        parts: specs of maps to put side by side, in which case all other attributes but the text are unused.
    """

    text: str
    fixed: FeatureMap | None = None
    first: Learnable | None = None
    stages: tuple[StageRecipe, ...] = ()
    blind: bool = False
    network: NetworkRequest | None = None
    path: Path | None = None
    auto: bool = False
    parts: tuple[FeatureSpec, ...] = ()

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
        if text == AUTO:
            return cls(text, auto=True)
        if BESIDE in text:
            return cls(text, parts=tuple(map(cls._parse_part, text.split(BESIDE))))
        first: Learnable | None = None
        stages: list[StageRecipe] = []
        blind, network = False, None
        for position, word in enumerate(text.split("+")):
            if position == 0 and word.startswith(NETWORK):
                network = NetworkRequest.parse(word.removeprefix(NETWORK))
                continue
            kind, count, options = _part(text, word)
            if position == 0:
                blind = options.flag(BLIND)
            if kind in IMAGE_MAPS and position == 0:
                first = IMAGE_MAPS[kind](count, options)
            elif kind in STAGES:
                stages.append(STAGES[kind](count, options))
            else:
                raise ValueError(f"{text!r}: {kind} takes images, and so it comes first")
            options.check_empty()
        if blind and any(stage.uses_images for stage in stages):
            raise ValueError(f"{text!r}: landmarks and differences are images; leave out {BLIND}")
        return cls(text, None, first, tuple(stages), blind, network)

    @classmethod
    def _parse_part(cls, text: str) -> FeatureSpec:
        part = cls.parse(text)
        if part.auto or part.path is not None:
            raise ValueError(f"{text} stands alone: there is nothing that can be put beside it")
        return part

    def with_network(self, network: NetworkFile) -> FeatureSpec:
        """Return the spec with the network that it names."""
        root = self.network is not None and self.network.root
        return replace(self, first=NetworkRecipe(network, root), network=None)

    @property
    def pixel_format(self) -> PixelFormat | None:
        """The format of the only images that the first map takes; None if it takes any.

        Raises:
            InputError: maps side by side take different ones.
        """
        formats = [part.pixel_format for part in self.parts if part.pixel_format is not None]
        if formats:
            if any(other != formats[0] for other in formats):
                raise InputError(f"--features {self.text}: networks side by side take images of the same form")
            return formats[0]
        return self.first.network.pixel_format if isinstance(self.first, NetworkRecipe) else None

    def for_images(self, images: Sampled) -> tuple[FeatureSpec, str]:
        """Return the spec to use for images, and in words why; the reason is empty unless it was chosen here."""
        if not self.auto:
            return self, ""
        chosen, reason = default_spec(images.shape, images.n_sampled)
        return FeatureSpec.parse(chosen), reason

    def n_features(self, shape: Shape) -> int:
        """Return the number of features of images of this shape, known before anything is learnt.

        Raises:
            InputError: there are more than a step can take, or the first map takes other images.
        """
        if self.fixed is not None:
            return self.fixed.n_features(shape)
        if self.parts:
            return self._allowed([sum(part.n_features(shape) for part in self.parts)])
        try:
            first = PIXELS.n_features(shape) if self.first is None else self.first.n_features(shape)
        except ValueError as error:
            raise InputError(f"--features {self.text}: {error}") from error
        return self._allowed([first, *(stage.n for stage in self.stages)])

    def _allowed(self, widths: list[int]) -> int:
        """Return the last of the numbers of features on the way, all of which a step can take."""
        if max(widths) > MOST_INNER:
            raise InputError(
                f"--features {self.text}: {max(widths):,} features, of {MOST_INNER:,} allowed; use fewer"
            )
        return widths[-1]

    def learn(self, images: Sampled, seed: int) -> FeatureMap:
        """Learn the map from a sample of training images, which validate none.

        Raises:
            InputError: it does not fit the images, or none of them can be used.
        """
        if self.fixed is not None:
            return self.fixed
        self.n_features(images.shape)
        if self.parts:
            learnt = (part.learn(images, seed + i * STEP_ASIDE) for i, part in enumerate(self.parts))
            return Joined(tuple(learnt))
        least = SAMPLE if self.first is None else self.first.rows
        count = max([least, *(stage.rows for stage in self.stages)])
        if self.blind:
            pixels = generated_images(images.shape, SAMPLE, seed)
            labels = np.zeros(len(pixels), np.int64)
        else:
            pixels, labels = images.sample(count, seed)
        if not len(pixels):
            raise InputError(f"--features {self.text}: no training image can be used to learn from")
        try:
            return self._learn(pixels, labels, seed)
        except ValueError as error:
            raise InputError(f"--features {self.text}: {error}") from error

    def _learn(self, pixels: Pixels, labels: Labels, seed: int) -> FeatureMap:
        found: FeatureMap = PIXELS if self.first is None else self.first.learn(pixels[:SAMPLE], seed)
        if not self.stages:
            return found
        x, usable, _ = usable_features(found, pixels)
        labels = labels[usable]
        for position, recipe in enumerate(self.stages):
            stage = recipe.learn(x, labels, seed + position * STEP)
            found = Chain(found, stage)
            if position + 1 < len(self.stages):
                x = stage(x)
        return found


STEP = 1_000_003
"""Added to the seed once per earlier stage, so that two stages of one kind differ."""

STEP_ASIDE = 1_000_000_007
"""Added to the seed once per map before, so that two maps of one kind side by side differ."""


def _part(text: str, word: str) -> tuple[str, int, Options]:
    match = PART.fullmatch(word)
    if match is None or match["kind"] not in {*IMAGE_MAPS, *STAGES}:
        raise ValueError(f"{text!r} is none of {FORMS}, nor one of {CHAINS}")
    count = int(match["count"])
    if not 1 <= count <= MOST:
        raise ValueError(f"{word!r}: {count} is not from 1 to {MOST:,}")
    return match["kind"], count, Options(match["kind"], match["options"])
