"""A folder of class folders, and the cache of its decoded pictures.

A picture is decoded once for each size of image, into an entry of the cache. The entry is named by
what it was made of: each file's path, size, mtime and ctime, the size of the images, and Pillow's
version.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from layerscope.base.errors import UserError
from layerscope.base.formatting import bytes_short
from layerscope.config.schema import ImageFolderConfig
from layerscope.data.batches import Split
from layerscope.data.decoded import DecodedFolder
from layerscope.data.pictures import SUFFIXES, PictureError, read_picture, without_bomb_warnings
from layerscope.data.sets import (
    SPLITS,
    DataSet,
    Progress,
    ReadOne,
    limited,
    refuse_more_than_memory,
    stratified_split,
)
from layerscope.data.store import Provenance, shared_directory
from layerscope.data.transfer import Report

MAX_NAME = 100  # characters in the name of a class
_PIXELS = "images"  # the one array of an entry
_AT_ONCE = 256  # pictures that are decoded before they are written


@dataclass(frozen=True)
class Listing:
    """The pictures of a split, ordered by class and name."""

    files: tuple[str, ...]
    labels: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, chosen: NDArray[np.int64]) -> "Listing":
        """Return the listing of some of the pictures."""
        return Listing(tuple(self.files[row] for row in chosen), self.labels[chosen])


class ImageFolder(DataSet):
    """Pictures in a folder for each class; see docs/own_data.md.

    Args:
        size: height and width that the pictures are decoded to.

    Raises:
        UserError: the folder is not laid out so, or holds something that cannot be used.
    """

    def __init__(self, config: ImageFolderConfig, size: int) -> None:
        self._is_streamed = config.loader == "workers"
        self._root = os.path.abspath(config.dir)
        self.stored_size = size
        self.class_names, self._splits, self._left_out = _list_pictures(self._root, config)
        cache = Path(config.cache) if config.cache else shared_directory() / "imagefolder"
        self._entries = {
            split: CacheEntry(cache.absolute(), listing.files, size)
            for split, listing in self._splits.items()
        }

    def prepare(self, splits: Sequence[Split], report: Report) -> Provenance:
        """See DataSet."""
        if self._left_out:
            report(
                f"{shown(self._root)}: files left out, no pictures by their names: "
                f"{len(self._left_out)} ({shown(self._left_out[0])}, ...)"
            )
        if not self._is_streamed:
            num_images = sum(len(self._splits[split]) for split in splits)
            refuse_more_than_memory(num_images, self.stored_size)
        sums: dict[str, str] = {}
        for split in splits:
            labels = self._splits[split].labels.astype("<i8").tobytes()
            sums[f"{split}_images"] = self._entries[split].prepare(report)
            sums[f"{split}_labels"] = hashlib.sha256(labels).hexdigest()
        return {"name": "imagefolder", "source": shown(self._root), "sha256": sums}

    def labels(self, split: Split) -> NDArray[np.integer]:
        """See DataSet."""
        return self._splits[split].labels

    def images(self, split: Split) -> NDArray[np.uint8]:
        """See DataSet."""
        return self._entries[split].images

    def reader(self, split: Split) -> ReadOne:
        """See DataSet."""
        return self._entries[split].read


@dataclass(frozen=True)
class CacheEntry:
    """The decoded pixels of some pictures, in a folder of the cache."""

    cache: Path
    files: tuple[str, ...]
    size: int

    @cached_property
    def _stored(self) -> DecodedFolder:
        """Return the folder, which is named by what it was made of."""
        digest = hashlib.sha256(f"1 {PIL.__version__} {self.size}".encode())
        for file in self.files:
            try:
                state = os.stat(file)
            except OSError as error:
                raise UserError(f"{shown(file)} cannot be read ({error.strerror})") from error
            times = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
            digest.update(b"\0" + os.fsencode(file) + b"\0" + times.encode())
        folder = self.cache / digest.hexdigest()[:32]
        return DecodedFolder(folder, "pictures", {_PIXELS: (self.size, self.size, 3)}, "data.cache")

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """Return the images (N, S, S, 3), mapped copy-on-write; `prepare` comes first."""
        if not self.files:
            return np.empty((0, self.size, self.size, 3), np.uint8)
        return self._stored.open(_PIXELS)

    def prepare(self, report: Report) -> str:
        """Decode the pictures unless they are there; return the SHA-256 of all pixels.

        Raises:
            UserError: names a picture that cannot be used.
        """

        def make() -> tuple[str, dict[str, Iterator[bytes]]]:
            num_bytes = len(self.files) * self.size * self.size * 3
            report(
                f"decoding {len(self.files):,} pictures to {self.size} x {self.size}: "
                f"{bytes_short(num_bytes)} in {shown(self._stored.folder)}"
            )
            progress = Progress(report, "pictures decoded", len(self.files))
            return "pictures", {_PIXELS: _decoded(self.files, self.size, progress)}

        if not self.files:
            return hashlib.sha256().hexdigest()
        return self._stored.prepare(make, report).sha256[_PIXELS]

    def read(self, index: int, epoch: int) -> NDArray[np.uint8]:
        """Return an image (S, S, 3), the same in each epoch."""
        return self.images[index]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the images out of what another process is sent: it maps the file itself."""
        return {name: value for name, value in self.__dict__.items() if name != "images"}


def _decoded(files: Sequence[str], size: int, progress: Progress) -> Iterator[bytes]:
    """Yield the pixels of the pictures in their order.

    Raises:
        UserError: names the first that is none, and how many others of those read with it.
    """

    def read(file: str) -> bytes | str:
        try:
            return read_picture(Path(file), size).tobytes()
        except PictureError as error:
            return f"{shown(file)} {error}"

    with without_bomb_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), _AT_ONCE):
            pixels = list(pool.map(read, files[start : start + _AT_ONCE]))
            broken = [problem for problem in pixels if isinstance(problem, str)]
            if broken:
                more = f" (and {len(broken) - 1} more like it)" if broken[1:] else ""
                raise UserError(f"{broken[0]}, or remove it{more}")
            progress.reach(start + len(pixels))
            yield from (part for part in pixels if isinstance(part, bytes))


def _list_pictures(
    root: str, config: ImageFolderConfig
) -> tuple[tuple[str, ...], dict[Split, Listing], list[str]]:
    """Return the classes, the pictures of each split, and the files that are no pictures."""
    if not os.path.isdir(root):
        raise UserError(f"data.dir={shown(config.dir)} is no folder: give the folder of the photos")
    folders = _folders(root)
    given: dict[Split, str] = {
        split: os.path.join(root, split) for split in SPLITS if split in folders
    }
    others = [name for name in folders if name not in SPLITS]
    if not given:
        given = {"train": root}
    elif others:
        raise UserError(
            f"{shown(os.path.join(root, others[0]))} lies beside {', '.join(given)}: these are "
            "splits, so that every folder in data.dir must be train, val or test; move it"
        )
    names = sorted(_folders(given["train"] if "train" in given else next(iter(given.values()))))
    _check_class_names(names, given)
    left_out: list[str] = []
    found: dict[Split, Listing] = {
        split: _list_split(folder, names, left_out) for split, folder in given.items()
    }
    return tuple(names), _complete(found, config), left_out


def _complete(found: dict[Split, Listing], config: ImageFolderConfig) -> dict[Split, Listing]:
    """Draw the splits that have no folder of their own from the training pictures."""
    nothing = Listing((), np.empty(0, np.int64))
    splits: dict[Split, Listing] = {"train": found.get("train", nothing)}
    of_all = len(splits["train"])
    drawn_splits: tuple[tuple[Split, int | float], ...] = (
        ("test", config.test_size),
        ("val", config.val_size),
    )
    for split, limit in drawn_splits:
        train = splits["train"]
        if split in found:
            splits[split] = found[split]
        elif isinstance(limit, float) and limit == 1:
            splits[split], splits["train"] = train, nothing
        elif len(train) == 0:
            splits[split] = nothing
        else:
            size = limited(of_all, limit)
            setting = f"data.{split}_size={limit}"
            rest, drawn = stratified_split(train.labels, size, setting)
            splits[split], splits["train"] = train.rows(drawn), train.rows(rest)
    return splits


def _list_split(folder: str, names: Sequence[str], left_out: list[str]) -> Listing:
    own = _folders(folder)
    unknown = [name for name in own if name not in names]
    if unknown:
        raise UserError(
            f"{shown(os.path.join(folder, unknown[0]))} is a class that the training pictures do "
            f"not have ({', '.join(names[:10])}): name it like one of them, or remove it"
        )
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if name not in own:  # a class may have no picture to test with
            continue
        pictures = _pictures_in(os.path.join(folder, name), left_out)
        files += pictures
        labels += [label] * len(pictures)
    return Listing(tuple(files), np.array(labels, dtype=np.int64))


def _pictures_in(folder: str, left_out: list[str]) -> list[str]:
    """Return the pictures of a class, by name.

    Raises:
        UserError: there are none, or something that is neither a picture nor another file.
    """
    pictures: list[str] = []
    for name in _names_in(folder):
        path = os.path.join(folder, name)
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            what = "is a link that leads nowhere" if os.path.islink(path) else "cannot be read"
            raise UserError(f"{shown(path)} {what} ({error.strerror}): remove it") from error
        if stat.S_ISDIR(mode):
            raise UserError(
                f"{shown(path)} is a folder inside a class: put its pictures directly into "
                f"{shown(folder)}"
            )
        if os.path.splitext(name)[1].lower() not in SUFFIXES:
            left_out.append(path)
        elif not stat.S_ISREG(mode):
            raise UserError(f"{shown(path)} is no file: remove it")
        else:
            pictures.append(path)
    if not pictures:
        raise UserError(f"{shown(folder)} holds no picture: put some there, or remove it")
    return pictures


def _check_class_names(names: Sequence[str], given: dict[Split, str]) -> None:
    for name in names:
        if not name.isprintable() or len(name) > MAX_NAME:
            raise UserError(
                f"{shown(name)} names a class: rename the folder to at most {MAX_NAME} printable "
                "characters in UTF-8"
            )
    if len(names) < 2:
        raise UserError(
            f"{shown(next(iter(given.values())))} holds {len(names)} folder(s) of pictures: give "
            "a folder with one for each class, at least two"
        )


def _folders(folder: str) -> list[str]:
    return [name for name in _names_in(folder) if os.path.isdir(os.path.join(folder, name))]


def _names_in(folder: str) -> list[str]:
    """Return the names in a folder but hidden ones, sorted by their bytes, as on every system."""
    try:
        return sorted((n for n in os.listdir(folder) if not n.startswith(".")), key=os.fsencode)
    except OSError as error:
        raise UserError(f"{shown(folder)} cannot be read ({error.strerror})") from error


def shown(path: str | Path) -> str:
    """Return a path as printable text, whatever bytes its name has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
