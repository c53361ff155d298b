"""CIFAR-100: the published archive, which the user has put there, and its decoded arrays.

Nothing is fetched. The archive, or what was unpacked of it, is proven by its published md5 before
it is decoded; the arrays are kept beside it, with their SHA-256.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerscope.base.errors import UserError
from layerscope.config.schema import Cifar100Config
from layerscope.data.batches import Split
from layerscope.data.cifar10 import ByteArray, Form, SourceError, channels_last, unpickled_batch
from layerscope.data.decoded import ByteParts, DecodedFolder
from layerscope.data.sets import DataSet, stratified_split
from layerscope.data.sources import local_sources
from layerscope.data.store import Provenance, shared_directory
from layerscope.data.transfer import Report

# fmt: off
FINE = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
    "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
    "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
    "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy",
    "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal",
    "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar",
    "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
)
COARSE = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables",
    "household_electrical_devices", "household_furniture", "insects", "large_carnivores",
    "large_man-made_outdoor_things", "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates", "people",
    "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
)
# fmt: on
_IMAGE, _LABEL = (32, 32, 3), ()


@dataclass(frozen=True)
class Cifar100Batch:
    """Images uint8 (N, 32, 32, 3) in RGB; labels uint8 (N,)."""

    images: ByteArray
    fine: ByteArray
    coarse: ByteArray


def decode(members: Mapping[str, bytes]) -> dict[str, Cifar100Batch]:
    """Decode the python version: pickles, whose sums the caller has checked."""
    return {part: _batch(members[part]) for part in ("train", "test")}


def _batch(content: bytes) -> Cifar100Batch:
    batch = unpickled_batch(content)
    images = channels_last(batch[b"data"])
    fine, coarse = (np.array(batch[key], np.uint8) for key in (b"fine_labels", b"coarse_labels"))
    if not len(images) == len(fine) == len(coarse) or fine.max() > 99 or coarse.max() > 19:
        raise ValueError("labels that are not those of the images")
    return Cifar100Batch(images, fine, coarse)


ARCHIVE = Form(
    origin="official archive cifar-100-python.tar.gz",
    archive="cifar-100-python.tar.gz",
    archive_sum="md5:eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    members={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
    decode=decode,
    max_member_bytes=2**28,  # the larger one has some 155,000,000
)


class Cifar100(DataSet):
    """CIFAR-100 with its fine or its coarse labels.

    Args:
        form: the archive, with the sums that prove it.
    """

    stored_size = 32

    def __init__(
        self, config: Cifar100Config, form: Form[dict[str, Cifar100Batch]] = ARCHIVE
    ) -> None:
        self._directory = shared_directory(config.dir)
        self._form = form
        self._kind = config.labels
        self._val_size = config.val_size
        self.class_names = FINE if config.labels == "fine" else COARSE
        arrays = {
            f"{part}_{name}": _IMAGE if name == "images" else _LABEL
            for part in ("train", "test")
            for name in ("images", "fine", "coarse")
        }
        self._folder = DecodedFolder(self._directory / "cifar100", "CIFAR-100", arrays, "data.dir")

    @property
    def is_decoded(self) -> bool:
        """Tell whether the arrays are there, so that `prepare` writes nothing."""
        return self._folder.found() is not None

    def prepare(self, splits: Sequence[Split], report: Report) -> Provenance:
        """See DataSet."""
        found = self._folder.prepare(lambda: self._decode(report), report)
        sums = {
            f"{part}_{name}": found.sha256[f"{part}_{stored}"]
            for part in ("train", "test")
            for name, stored in (("images", "images"), ("labels", self._kind))
        }
        return {"name": "cifar100", "source": found.source, "sha256": sums}

    def labels(self, split: Split) -> NDArray[np.integer]:
        """See DataSet."""
        labels = self._folder.open(f"{_part(split)}_{self._kind}")
        return labels if split == "test" else labels[self._rows(split)]

    def images(self, split: Split) -> NDArray[np.uint8]:
        """See DataSet."""
        images = self._folder.open(f"{_part(split)}_images")
        return images if split == "test" else images[self._rows(split)]

    def _rows(self, split: Split) -> NDArray[np.int64]:
        # By the fine labels, whichever are trained on: the same images either way.
        fine = self._folder.open("train_fine")
        trained, validated = stratified_split(fine, self._val_size)
        return trained if split == "train" else validated

    def _decode(self, report: Report) -> tuple[str, dict[str, ByteParts]]:
        """Return the origin and the arrays of the archive, or of what was unpacked of it."""
        failures: list[str] = []
        for source in local_sources(self._directory, (self._form,)):
            try:
                batches: dict[str, Cifar100Batch] = source.decoded(self._directory, report)
            except SourceError as error:
                failures.append(f"{source.name}: {error}")
                continue
            report(f"CIFAR-100: verified and stored in {self._folder.folder}")
            arrays: dict[str, ByteParts] = {
                f"{part}_{name}": [getattr(batch, name).tobytes()]
                for part, batch in batches.items()
                for name in ("images", "fine", "coarse")
            }
            return self._form.origin, arrays
        raise UserError(
            f"CIFAR-100 is not in {self._directory}"
            + (f" ({'; '.join(failures)})" if failures else "")
            + f": put {self._form.archive} there, which is not fetched, or give the directory "
            "that holds it, data.dir=DIR"
        )


def _part(split: Split) -> str:
    return "test" if split == "test" else "train"
