"""python benchmarks/convolutional_head.py best.ckpt [--image photo.png] [--size 96] [--rounds 7]

A trained network as a convolutional one on an image larger than it was trained for: the grid of
classes, against the network itself on every crop. FLOPs by theory, and seconds as ratios measured
in turn in one process, for all crops in one batch and one after the other. Without --image: test
images of CIFAR-10 side by side, 3 by 3 for 96 pixels.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import layerscope
from layerscope.base.errors import UserError
from layerscope.data.batches import Scale
from layerscope.data.preprocessing import Preprocessing
from layerscope.data.store import load_cifar10
from layerscope.data.view import see_images, see_labels
from layerscope.dry_run import dry_run
from layerscope.networks.convolutional import crops, to_convolutional, total_stride
from layerscope.theory import cost_table, textbook_units
from layerscope.training.checkpoints import RunFacts, read_checkpoint

PIXELS = 32  # of a CIFAR-10 image


def picture(path: Path, size: int) -> NDArray[np.uint8]:
    """(1, size, size, 3): the central square of the photo."""
    with Image.open(path) as image:
        photo = image.convert("RGB")
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), dtype=np.uint8)[None]


def mosaic(size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(1, size, size, 3) of the first test images, and their labels (rows, columns)."""
    arrays, count = load_cifar10(), -(-size // PIXELS)
    images = arrays.test_images[: count * count].reshape(count, count, PIXELS, PIXELS, 3)
    whole = images.transpose(0, 2, 1, 3, 4).reshape(1, count * PIXELS, count * PIXELS, 3)
    return whole[:, :size, :size], arrays.test_labels[: count * count].reshape(count, count)


def in_turn(rounds: int, works: Sequence[Callable[[], Tensor]]) -> list[list[float]]:
    """Seconds of each, one after the other, so that what disturbs one disturbs all."""
    for work in works:
        work()  # warm up
    measured: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for times, work in zip(measured, works, strict=True):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
    return measured


def ratios(times: list[float], reference: list[float]) -> str:
    each = sorted(a / b for a, b in zip(times, reference, strict=True))
    return f"{median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def forward_flops(network: nn.Module, shape: tuple[int, ...]) -> int:
    run = dry_run(network, (torch.zeros(shape),), backward=False)
    return cost_table(run, textbook_units(run), element_size=4).total().forward_flops


def has_padding(network: nn.Module) -> bool:
    layers = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    return any(
        layer.padding not in (0, (0, 0), "valid")
        for layer in network.modules()
        if isinstance(layer, layers)
    )


def print_grid(classes: Tensor, names: Sequence[str]) -> None:
    width = max(map(len, names))
    for row in classes.tolist():
        print("  " + " ".join(f"{names[index]:<{width}}" for index in row).rstrip())


def print_differences(grid: Tensor, each: Tensor, padded: bool) -> None:
    """Both (classes, rows, columns)."""
    agreeing = (grid.argmax(0) == each.argmax(0)).sum().item()
    difference = (grid - each).abs()
    print(f"same class at {agreeing} of {grid[0].numel()} places")
    print(
        f"scores differ by at most {difference.max():.3g}, by {difference.mean():.3g} on average; "
        f"the crops' own have a standard deviation of {each.std():.3g}"
    )
    if padded:
        print("The network pads: a crop has zeros around it where the image goes on.")
    else:
        print("The network does not pad: what is left is rounding.")


def compare(options: argparse.Namespace) -> None:
    network = layerscope.load(options.checkpoint)
    facts = RunFacts.of(read_checkpoint(options.checkpoint))
    preprocessing = Preprocessing.from_plain(facts.preprocessing)
    channels, height, width = facts.parsed_config().model.input_shape
    if options.size < height:
        raise UserError(f"--size {options.size}: give at least the network's own {height}")
    labels = None
    if options.image is None:
        pixels, labels = mosaic(options.size)
        labels = see_labels(labels.reshape(-1), preprocessing.view).reshape(labels.shape)
    else:
        pixels = picture(options.image, options.size)
    view = replace(preprocessing.view, image_size=options.size)
    scale = Scale(preprocessing.normalisation, view, torch.device("cpu"))
    image = scale(torch.from_numpy(see_images(pixels, view).copy())).contiguous()
    converted = to_convolutional(network, (channels, height, width))
    stride = total_stride(converted)
    batch = crops(image, (height, width), stride)
    with torch.inference_mode():
        grid = converted(image)[0]
        each = network(batch).T.reshape(-1, *grid.shape[1:])
        one_pass, at_once, singly = in_turn(
            options.rounds,
            (
                lambda: converted(image),
                lambda: network(batch),
                lambda: torch.cat([network(crop) for crop in batch.split(1)]),
            ),
        )
    names = preprocessing.view.class_names
    print(f"image {options.size}×{options.size}, crops {height}×{width} every {stride[0]} pixels")
    if labels is not None:
        print("what is there:")
        print_grid(torch.from_numpy(labels), [*names, "-"])
    print(f"the grid of {grid.shape[1]}×{grid.shape[2]} classes:")
    print_grid(grid.argmax(0), names)
    print_differences(grid, each, has_padding(converted))
    flops = forward_flops(converted, tuple(image.shape))
    all_flops = forward_flops(network, tuple(batch.shape))
    print(f"FLOPs of one pass:         {flops:,}")
    print(f"FLOPs of all {len(batch):,} crops:     {all_flops:,}, {all_flops / flops:.2f} times")
    print(f"seconds of one pass:       {median(one_pass):.4f}, median of {options.rounds} rounds")
    print(f"seconds, crops in a batch: {ratios(at_once, one_pass)} times (range)")
    print(f"seconds, crops singly:     {ratios(singly, one_pass)} times (range)")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--image", type=Path, help="a picture file")
    parser.add_argument("--size", type=int, default=96, help="pixels of its sides, as seen")
    parser.add_argument("--rounds", type=int, default=7)
    try:
        compare(parser.parse_args(argv))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
