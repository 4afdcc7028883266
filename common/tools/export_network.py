"""`python -m common.tools.export_network NAME FILE.onnx`: write a network that embeds images to an ONNX file.

`--features network:FILE.onnx` then needs neither PyTorch nor the network's package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.atomic import write_atomically
from common.console import Console
from common.errors import InputError
from common.features.network_file import SUFFIX, NetworkRequest
from common.run.exits import run_job
from common.run.features import network_file
from common.run.flag_types import input_location, output_location
from common.run.parser import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, export, and say what the network takes."""
    flags = Parser(description="Write a network that embeds images to an ONNX file, for --features network:FILE.")
    flags.add_argument("name", metavar="NAME", help="efficientnet-lite0, or a run folder of train_cnn.py")
    flags.add_argument(
        "--weights",
        metavar="FILE",
        type=input_location,
        help="weights of NAME, which is a classifier of torchvision then, such as resnet50",
    )
    flags.add_argument("file", metavar=f"FILE{SUFFIX}", type=output_location, help="the file to write")
    arguments = flags.parse_arguments(argv)
    target = Path(arguments.file)
    if target.suffix != SUFFIX:
        raise InputError(f"{target}: does not end with {SUFFIX}, by which --features knows a file")
    try:
        weights = None if arguments.weights is None else Path(arguments.weights)
        network = network_file(NetworkRequest.parse(arguments.name), weights)
        with write_atomically(target) as file:
            file.write(network.model.tobytes())
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{arguments.name}: {error}") from error
    height, width, channels = network.shape
    Console().say(f"{target}: {len(network.model) / 1e6:.1f} MB, takes images of {height}x{width}x{channels}")
    return 0


if __name__ == "__main__":
    run_job(main)
