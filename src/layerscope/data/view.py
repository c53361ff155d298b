"""The view that a network has of the images: their size, their channels, their classes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from layerscope.base.errors import UserError
from layerscope.config.schema import DataBase, DataConfig, NetworkBase

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what most programs call grayscale
TWO_GROUPS = {
    "animals": ("bird", "cat", "deer", "dog", "frog", "horse"),
    "vehicles": ("airplane", "automobile", "ship", "truck"),
}
ROWS_AT_ONCE = 4096  # bounds the memory of a float copy
_NUM_LISTED = 20  # classes in a message


@dataclass(frozen=True)
class View:
    """Size, channels and classes of the images. Plain data, which a checkpoint carries."""

    image_size: int
    grayscale: bool
    groups: tuple[tuple[str, tuple[int, ...]], ...]  # name and the original classes of each class

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names in the order of the labels."""
        return tuple(name for name, _ in self.groups)


def view_for(data: DataBase, model: NetworkBase, class_names: Sequence[str]) -> View:
    """Return the view that the keys ask for, or where they are null the network needs."""
    channels, height, width = model.input_shape
    if height != width:
        raise UserError(f"model.input_shape={list(model.input_shape)}: the images are square")
    if channels not in (1, 3):
        raise UserError(f"model.input_shape={list(model.input_shape)}: images have 1 or 3 channels")
    if data.image_size not in (None, height):
        raise UserError(
            f"data.image_size={data.image_size} but the network takes {height} by {width}: "
            f"set model.input_shape=[{channels},{data.image_size},{data.image_size}]"
        )
    if data.grayscale not in (None, channels == 1):
        raise UserError(
            f"data.grayscale={data.grayscale} but the network takes {channels} channel(s): "
            f"set model.input_shape=[{1 if data.grayscale else 3},{height},{width}]"
        )
    return View(height, channels == 1, _groups(data, model, class_names))


def view_of_other_data(
    trained: View, data: DataConfig, class_names: Sequence[str], trained_names: Sequence[str]
) -> View:
    """Return the view of a trained network on other data, whose classes are matched by name.

    Args:
        trained: the view that the network was trained with.
        data: the other data's keys, of which `groups` says which classes are which.
        class_names: the other data's own classes.
        trained_names: those of the data that the network was trained on.

    Raises:
        UserError: a class has no counterpart, so that an accuracy would mean nothing.
    """
    if data.groups is None and tuple(class_names) == tuple(trained_names):
        return trained
    named = data.groups or {name: (name,) for name in class_names}
    _check_groups(named, class_names)
    unknown = [name for name in named if name not in trained.class_names]
    if unknown and data.groups is not None:
        raise UserError(
            f"data.groups.{unknown[0]} is no class of the checkpoint's network: choose from "
            f"{_listed(trained.class_names)}"
        )
    if unknown:
        example = f"'data.groups={{{trained.class_names[0]}:[{class_names[0]},...],...}}'"
        raise UserError(
            f"data={data.name} has the class {unknown[0]}"
            + (f" (and {len(unknown) - 1} more)" if unknown[1:] else "")
            + f", which the checkpoint's network does not know ({_listed(trained.class_names)}): "
            f"give its own kind of data, or say which classes are which, {example}"
        )
    indices = {name: index for index, name in enumerate(class_names)}
    groups = tuple(
        (name, tuple(indices[member] for member in named.get(name, ())))
        for name in trained.class_names
    )
    return View(trained.image_size, trained.grayscale, groups)


def see_images(images: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Convert stored images (N, S, S, 3) to the view's channels, and to a smaller size.

    A smaller image's pixel is the mean of the pixels that it covers. Larger images would take tens
    of times the memory: `enlarge` makes them later, on the training device.
    """
    size = min(view.image_size, images.shape[1])
    if size == images.shape[1] and not view.grayscale:
        return images
    seen = np.empty((len(images), size, size, 1 if view.grayscale else 3), np.uint8)
    for start in range(0, len(images), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        seen[rows] = see_pixels(torch.from_numpy(np.array(images[rows])), view).numpy()
    return seen


def see_pixels(images: Tensor, view: View) -> Tensor:
    """Do the same as `see_images` with a tensor (N, S, S, 3) of uint8, all at once."""
    size = min(view.image_size, images.shape[1])
    if size == images.shape[1] and not view.grayscale:
        return images
    return _see(images, size, view.grayscale)


def see_labels(labels: NDArray[np.integer], view: View) -> NDArray[np.int64]:
    """Return the view's class of each image; -1 where it belongs to none."""
    highest = max(index for _, members in view.groups for index in members)
    table = np.full(1 + max(highest, int(labels.max(initial=0))), -1, dtype=np.int64)
    for label, (_, members) in enumerate(view.groups):
        table[list(members)] = label
    return table[labels]


def enlarge(images: Tensor, view: View) -> Tensor:
    """Enlarge float images (N, C, S, S) to the view's size, bilinear; return others as they are."""
    if images.shape[-1] >= view.image_size:
        return images
    size = (view.image_size, view.image_size)
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def _see(images: Tensor, size: int, grayscale: bool) -> Tensor:
    planes = images.permute(0, 3, 1, 2).double()  # (N, 3, H, W)
    if grayscale:
        planes = torch.einsum("nchw,c->nhw", planes, torch.tensor(LUMA, dtype=torch.double))[
            :, None
        ]
    means = _area_means(planes, size)  # (N, C, S, S)
    return means.round().to(torch.uint8).permute(0, 2, 3, 1)


def _area_means(planes: Tensor, size: int) -> Tensor:
    """Return F.adaptive_avg_pool2d(planes, size), to the bit.

    Programs that run ONNX have that operation for float32 only, and these for float64 too.
    """
    if size == 1:
        return planes.mean((2, 3), keepdim=True)
    height, width = planes.shape[2:]
    rows, columns = _windows(height, size), _windows(width, size)
    total = torch.zeros((), dtype=planes.dtype, device=planes.device)
    for row, is_row in _offsets(rows, height, planes.device):
        for column, is_column in _offsets(columns, width, planes.device):
            part = planes[:, :, row][:, :, :, column]
            total = total + torch.where(is_row[:, None] & is_column, part, 0.0)
    heights, widths = (
        torch.tensor([stop - start for start, stop in windows], device=planes.device)
        for windows in (rows, columns)
    )
    return total / heights[:, None] / widths


def _windows(old_size: int, size: int) -> list[tuple[int, int]]:
    """Return start and stop of the old pixels that each new one covers."""
    return [(i * old_size // size, -(-(i + 1) * old_size // size)) for i in range(size)]


def _offsets(
    windows: list[tuple[int, int]], old_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the windows' first pixels, then their second ones, ..., and which windows have one."""
    for offset in range(max(stop - start for start, stop in windows)):
        pixels = [min(start + offset, old_size - 1) for start, _ in windows]
        exists = [start + offset < stop for start, stop in windows]
        yield torch.tensor(pixels, device=device), torch.tensor(exists, device=device)


def _groups(
    data: DataBase, model: NetworkBase, class_names: Sequence[str]
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    groups = data.groups
    if groups is None:
        groups = _default_groups(model.num_classes, class_names)
    if len(groups) != model.num_classes:
        raise UserError(
            f"data.groups names {len(groups)} classes but model.num_classes={model.num_classes}: "
            "make them equal"
        )
    _check_groups(groups, class_names)
    indices = {name: index for index, name in enumerate(class_names)}
    return tuple(
        (name, tuple(indices[member] for member in members)) for name, members in groups.items()
    )


def _check_groups(groups: Mapping[str, tuple[str, ...]], class_names: Sequence[str]) -> None:
    """Refuse groups of unknown classes, and a class in two groups."""
    seen: set[str] = set()
    for name, members in groups.items():
        unknown = [member for member in members if member not in class_names]
        if unknown or not members:
            raise UserError(
                f"data.groups.{name}={list(members)}: choose from {_listed(class_names)}"
            )
        if seen & set(members):
            raise UserError(
                f"data.groups.{name}: {', '.join(seen & set(members))} is in two groups"
            )
        seen |= set(members)


def _default_groups(num_classes: int, class_names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    if num_classes == len(class_names):
        return {name: (name,) for name in class_names}
    has_both_kinds = {name for group in TWO_GROUPS.values() for name in group} == set(class_names)
    if num_classes == len(TWO_GROUPS) and has_both_kinds:
        return TWO_GROUPS
    raise UserError(
        f"model.num_classes={num_classes}: the data has {len(class_names)} classes; "
        f"say which belong together, 'data.groups={{name:[{class_names[0]},...],...}}', or give "
        f"model.num_classes={len(class_names)}"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NUM_LISTED])
    return shown if len(names) <= _NUM_LISTED else f"{shown}, ... ({len(names)} in all)"
