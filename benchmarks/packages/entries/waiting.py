"""Models of which a signature cannot say what they take or return: counted and named, not run."""

from __future__ import annotations

from packages.entry import Entry


def waiting(package: str, name: str, imports: str, build: str, waits: str) -> Entry:
    """A class that no signature describes."""
    return Entry(package, name, imports, build, {}, waits)


ENTRIES: tuple[Entry, ...] = (
    waiting(
        "vit-pytorch",
        "NaViT",
        "from vit_pytorch.na_vit import NaViT",
        "NaViT(image_size=32, patch_size=8, num_classes=5, dim=32, depth=1, heads=2, mlp_dim=64)",
        "takes a list of images of several sizes: an input that is a list of tensors, one a row",
    ),
    waiting(
        "torchvision",
        "FasterRCNN",
        "from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)",
        "returns a list of dicts, one a row, with as many boxes as it found, and needs boxes beside the images in training mode",
    ),
)
