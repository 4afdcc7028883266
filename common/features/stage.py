"""Stage: the protocol of maps that follow another map, from its features to features of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from common.arrays import Features, Labels


class Stage(Protocol):
    """Turns features of 8 bits into others, each image on its own.

    Attributes:
        kind: the name of the kind, by which the registry rebuilds the stage.
    """

    kind: ClassVar[str]

    @property
    def n_outputs(self) -> int:
        """The number of features that it computes."""
        ...

    @property
    def n_inputs(self) -> int:
        """The number of features that it takes."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the settings and the digests of the arrays, as JSON."""
        ...

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return what was learnt or drawn."""
        ...

    def __call__(self, x: Features) -> Features:
        """Compute features: uint8 (n, n_inputs) to uint8 (n, n_outputs)."""
        ...


class StageRecipe(Protocol):
    """How a stage is learnt."""

    @property
    def uses_images(self) -> bool:
        """True if the stage keeps images, or features of images, as they are."""
        ...

    @property
    def n(self) -> int:
        """The number of features that the stage will compute."""
        ...

    @property
    def rows(self) -> int:
        """The smallest number of images that it can be learnt from."""
        ...

    def learn(self, x: Features, labels: Labels, seed: int) -> Stage:
        """Learn the stage.

        Args:
            x: features of a sample of training images in random order, uint8 (n, d).
            labels: their classes, int64 (n,).
            seed: of all that is drawn.

        Raises:
            ValueError: it cannot be learnt from these.
        """
        ...
