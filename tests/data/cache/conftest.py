"""A data set of small pictures and an encoder whose features can be computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tove_core.data.cache.build import Builder, BuildReport
from tove_core.data.cache.codec import CacheDtype
from tove_core.data.cache.folder import FeatureCache
from tove_core.data.fingerprint import FeatureFingerprint
from tove_core.hub.images import read_image

SHAPES = {"clip": (3, 5), "edges": (3, 2), "depth": (3, 4)}


def fingerprint(name: str, **changes: Any) -> FeatureFingerprint:
    statistics = {"map": {"mean": [0.5, 2.0], "std": [1.0, 0.1]}} if name == "depth" else {}
    decides = {"weights": f"of {name}", "view": "squash", "layer": -2} | changes
    return FeatureFingerprint(name, SHAPES[name], decides, statistics, {"torch": "2.15.0"})


def features(pixels: list[torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """Features that tell pictures apart: their mean, plus something of each feature's own."""
    mean = torch.stack([image.double().mean() for image in pixels]).float()[:, None, None]
    return {
        n: mean / 255 + torch.arange(a * b).reshape(a, b) / (7 + len(n)) for n, (a, b) in SHAPES.items() if n in names
    }


class Filler:
    """Builds caches and counts what was computed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[int, tuple[str, ...]]] = []

    def encode(self, pixels: list[torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
        self.calls.append((len(pixels), tuple(names)))
        return features(pixels, names)

    def builder(
        self,
        images: list[Any],
        names: tuple[str, ...] = ("clip", "edges"),
        dtype: CacheDtype = "float32",
        **limits: Any,
    ) -> Builder:
        cache = FeatureCache(self.folder)
        stores = {name: cache.find_or_create(fingerprint(name), dtype) for name in names}
        return Builder(self.folder, stores, images, **limits)

    def build(self, images: list[Any], *names: str, batch: int = 4, **given: Any) -> BuildReport:
        builder = self.builder(images, names or ("clip", "edges"), **given)
        return builder.run(self.encode, read_image, batch_size=batch, workers=2)

    @property
    def computed(self) -> int:
        return sum(count for count, _ in self.calls)


@pytest.fixture
def filler(tmp_path: Path) -> Filler:
    return Filler(tmp_path / "cache")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """11 files of 10 different pictures: the last is a copy of the first."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(2)
    paths = [folder / f"{n}.png" for n in range(10)]
    for path in paths:
        Image.fromarray(draw.integers(0, 256, (7, 9, 3), dtype=np.uint8)).save(path)
    copy = folder / "copy.png"
    copy.write_bytes(paths[0].read_bytes())
    return [*paths, copy]
