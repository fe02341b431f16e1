"""A folder of images with a subfolder for each class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.data import IndexedReader, Record
from harness.errors import DataError, optional_package
from harness.tasks import TaskSpec

if TYPE_CHECKING:
    from torch import Tensor

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class ImageFolder(IndexedReader):
    """Images in a subfolder for each class, those in deeper folders too; decoded when they are asked for.

    Attributes:
        size: ``(C, H, W)`` that they are decoded to.
        files: Every image, by class and then by name.
    """

    size: tuple[int, int, int]
    files: tuple[Path, ...]

    kind = "folder of images"
    suffixes = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
    layout = "a subfolder for each class"
    package = "pillow"
    is_folder = True

    @classmethod
    def open(cls, path: Path, task: TaskSpec, *, lenient: bool = False) -> ImageFolder:
        """The images under a folder.

        Args:
            path: A folder with a subfolder for each class.
            task: Its ``image_size`` is what they are decoded to.
            lenient: Whether a subfolder may be empty, as long as not all are.

        Raises:
            DataError: The task takes no images, there is no subfolder, one without images, or no way to decode to so many channels.
        """
        size = task.image_size
        if task.facts.rows != "image" or size is None:
            raise DataError(f"`path`: {path} is a folder of images, the task is {task.title}")
        if size[0] not in _MODES:
            raise DataError(
                f"{path.name}: images are decoded to 1, 3 or 4 channels, not to {size[0]} (`image_size` {list(size)})"
            )
        classes = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        if not classes:
            raise DataError(f"{path}: no subfolders; an image folder has one for each class")
        found = {folder: sorted(file for file in folder.rglob("*") if file.suffix.lower() in cls.suffixes) for folder in classes}
        empty = next((folder for folder, files in found.items() if not files), None)
        if empty is not None and not (lenient and any(found.values())):
            raise DataError(f"{path.name}/{empty.name}: no images ({', '.join(cls.suffixes)}) for the class {empty.name!r}")
        return cls(path, size, tuple(file for files in found.values() for file in files))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The subfolders, sorted."""
        return tuple(sorted({self._label(file) for file in self.files}))

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        """An image, still a file, and its class."""
        file = self.files[index]
        return Record(file.relative_to(self.path.parent).as_posix(), {"image": file, "label": self._label(file)})

    def _label(self, file: Path) -> str:
        return file.relative_to(self.path).parts[0]


def decode(file: Path, size: tuple[int, int, int], where: str) -> Tensor:
    """Decodes an image, turned as its EXIF data says and resized where its size is another.

    Args:
        file: The image.
        size: ``(C, H, W)``.
        where: What an error message names.

    Returns:
        Float32 ``[C, H, W]`` from 0 to 1.

    Raises:
        DataError: It cannot be decoded.
        MissingPackageError: ``pillow`` is not installed.
    """
    import torch

    pil = optional_package("PIL.Image", f"{where}: an image")
    turned = optional_package("PIL.ImageOps", f"{where}: an image").exif_transpose
    channels, height, width = size
    try:
        with pil.open(file) as image:
            pixels = turned(image).convert(_MODES[channels])
    except Exception as error:  # a damaged file makes a decoder raise whatever it likes
        raise DataError(
            f"{where}: cannot be decoded: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), pil.Resampling.BILINEAR)
    array = np.asarray(pixels, dtype=np.float32).reshape(height, width, channels) / 255
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()
