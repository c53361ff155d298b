"""What benchmarks/gpu.py carries to a machine without a network: wheels, and CIFAR-10 in pieces."""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.12"  # of that machine
# What machines with torch, torchvision, torchmetrics, lightning and matplotlib were seen to lack.
PURE = (
    *("hydra-core", "omegaconf", "antlr4-python3-runtime", "fvcore", "iopath", "yacs", "termcolor"),
    *("pydantic", "annotated-types", "typing-inspection", "pooch", "platformdirs", "lightning"),
    *("latex2mathml", "portalocker", "tabulate"),
)
COMPILED = ("pydantic-core",)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

NUM_PIECES = 2
PIECE_BYTES = 60 * 2**20  # what one call may carry, with room for the rest
_TILES = 50  # along each side of a picture: 2,500 images
_NUM_IMAGES = 60_000
_STORE = Path(tempfile.gettempdir()) / "layerscope-gpu-cifar10"


def pack(folder: Path) -> str:
    """Write wheels and pieces, and return the two command lines for the other machine.

    Raises:
        RuntimeError: a piece is larger than a call may carry.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _wheels(folder / "wheels")
    _cifar10(folder)
    sizes = ", ".join(f"{path.name} {_bytes(path) / 2**20:.1f} MiB" for path in _parts(folder))
    return f"{folder}: {sizes}\n\n" + "\n\n".join(_commands(folder.name))


def _commands(name: str) -> list[str]:
    install = (
        "python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade "
        f"--target /tmp/site {name}/wheels/*.whl && export PYTHONPATH=/tmp/site && "
    )
    return [
        f"call {half}, carrying {name}/wheels and {name}/piece{half}:\n"
        f"{install}python3 benchmarks/gpu.py --half {half} --data {name}/piece{half} "
        f"--out $OUT/half{half}"
        for half in (1, 2)
    ]


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _wheels(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    pinned = dict(
        re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    )
    wanted = [f"{name}=={pinned.get(name) or version(name)}" for name in PURE]
    _run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), *wanted])
    compiled = [f"{name}=={pinned.get(name) or version(name)}" for name in COMPILED]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    where = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    _run([*pip, "download", "--no-deps", *where, *platforms, "--dest", str(folder), *compiled])
    _run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)])


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)


def _cifar10(folder: Path) -> None:
    """Write the images as lossless pictures of many tiles, evenly over the pieces."""
    from layerscope.data.store import load_cifar10

    arrays = load_cifar10()
    pictures = [
        (f"{split}_{number:02}.webp", _picture(images[start : start + _TILES**2]))
        for split, images in (("train", arrays.train_images), ("test", arrays.test_images))
        for number, start in enumerate(range(0, len(images), _TILES**2))
    ]
    for number in range(NUM_PIECES):
        piece = folder / f"piece{number + 1}"
        piece.mkdir()
        for name, content in pictures[number::NUM_PIECES]:
            (piece / name).write_bytes(content)
        if _bytes(piece) > PIECE_BYTES:
            raise RuntimeError(f"{piece} is larger than {PIECE_BYTES:,} B")
    np.save(folder / "piece1" / "train_labels.npy", arrays.train_labels)
    np.save(folder / "piece1" / "test_labels.npy", arrays.test_labels)


def _picture(images: NDArray[np.uint8]) -> bytes:
    """Images (N, 32, 32, 3) side by side, row after row."""
    count, size = len(images), images.shape[1]
    assert count == _TILES**2
    tiles = images.reshape(_TILES, _TILES, size, size, 3).transpose(0, 2, 1, 3, 4)
    content = io.BytesIO()
    Image.fromarray(tiles.reshape(_TILES * size, _TILES * size, 3)).save(
        content, "WEBP", lossless=True, quality=100, method=4, exact=True
    )
    return content.getvalue()


def _images(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    size = pixels.shape[0] // _TILES
    tiles = pixels.reshape(_TILES, size, _TILES, size, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(_TILES**2, size, size, 3)


def take_in(piece: Path) -> str:
    """Keep a piece; with the last one write the arrays that data_directory() then names.

    Their checksums are verified by whatever loads them.
    """
    pieces = _STORE / "pieces"
    shutil.copytree(piece, pieces, dirs_exist_ok=True)
    pictures = sorted(pieces.glob("*.webp"))
    num_images = len(pictures) * _TILES**2
    if num_images < _NUM_IMAGES:
        return f"CIFAR-10: {num_images:,} of {_NUM_IMAGES:,} images are here"
    for split in ("train", "test"):
        found = [_images(path) for path in pictures if path.name.startswith(split)]
        np.save(_STORE / f"{split}_images.npy", np.concatenate(found))
        shutil.copy(pieces / f"{split}_labels.npy", _STORE)
    shutil.rmtree(pieces)
    return f"CIFAR-10 is in {_STORE}"


def data_directory() -> Path | None:
    """Return where CIFAR-10 is: from pieces, or where layerscope keeps it; None: nowhere."""
    if (_STORE / "test_images.npy").exists():
        return _STORE
    configured = os.environ.get("LAYERSCOPE_DATA_DIR")
    if configured and (Path(configured) / "test_images.npy").exists():
        return Path(configured)
    from layerscope.data.store import default_directory

    usual = default_directory()
    return usual if (usual / "test_images.npy").exists() else None
