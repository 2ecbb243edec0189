"""Bring what one expert gives to CLIP's grid: u_k [B, N, C_u]. Frozen, and exactly what a feature cache stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tove_kernels import align_tokens

from tove_core.errors import ConfigError, DataError
from tove_core.fusion.rasterise import GEOMETRY, rasterise
from tove_core.hub.regions import RegionBatch
from tove_core.spec import ExpertSpec, Grid, Output, Regions, Vector

TINY = 1e-6


class Embedder(Protocol):
    """Gives unit vectors [T, E] for T strings; see `tove_core.tower.text.TextVectors`."""

    @property
    def width(self) -> int | None:
        """E; None where there is nothing to embed text with."""
        ...

    def __call__(self, texts: Sequence[str], /) -> Tensor:
        """Embed strings."""
        ...


def gives_text(spec: ExpertSpec) -> bool:
    """Return whether an expert gives labels or words, for which CLIP's text tower is needed."""
    return any(isinstance(output, Regions) and output.text for output in spec.outputs.values())


def aligned_width(spec: ExpertSpec, texts: Embedder | None = None) -> int:
    """Return C_u, the channels of the aligned tokens of all outputs of an expert.

    Args:
        spec: the expert's, its variant applied.
        texts: embeds labels and words.

    Raises:
        ConfigError: the expert gives labels or words, and CLIP has no text tower.
    """
    return sum(_width(spec.name, name, output, texts) for name, output in spec.outputs.items())


def _width(expert: str, name: str, output: Output, texts: Embedder | None) -> int:
    if not isinstance(output, Regions):
        return output.channels * output.fold**2 if isinstance(output, Grid) else output.channels
    if not output.text:
        return output.channels + GEOMETRY
    width = None if texts is None else texts.width
    if width is None:
        raise ConfigError(
            f"expert {expert!r}: output {name!r} holds text and this CLIP has no text tower to embed it with; "
            "choose a whole CLIP, or an expert without text"
        )
    return width + GEOMETRY


class Align(nn.Module):
    """Normalise, resample and fold an expert's outputs; several outputs follow each other in the channels.

    Statistics for `norm: fixed` are buffers: `measure` sets them once, the checkpoint keeps them.

    Args:
        spec: the expert's, its variant applied.
        grid: rows and columns of CLIP's tokens.
        texts: embeds labels and words, for experts that give them.
    """

    def __init__(self, spec: ExpertSpec, grid: tuple[int, int], texts: Embedder | None = None) -> None:
        super().__init__()
        self.outputs = dict(spec.outputs)
        self.grid = grid
        self.texts = texts
        self.width = aligned_width(spec, texts)
        for name, output in self.outputs.items():
            if _is_fixed(output):
                self.register_buffer(f"{name}-mean", torch.zeros(output.channels))
                self.register_buffer(f"{name}-std", torch.ones(output.channels))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Statistics stay in float32 where a model is converted: a mean in bfloat16 has lost what is subtracted from it.
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, kept in before.items():
            now = self.get_buffer(name)
            if now.dtype != kept.dtype:
                self.register_buffer(name, kept.to(now.device))
        return self

    @property
    def needs_measuring(self) -> bool:
        """Whether any output is normalised by statistics of its own."""
        return any(True for _ in self.buffers())

    @torch.no_grad()
    def forward(self, outputs: Mapping[str, Tensor | RegionBatch]) -> Tensor:
        """Return u [B, N, C_u], float32, from the expert's outputs: [B, C, h, w], [B, C] or regions."""
        return torch.cat([self._align(name, outputs[name]) for name in self.outputs], -1)

    @torch.no_grad()
    def measure(self, batches: Iterable[Mapping[str, Tensor | RegionBatch]]) -> None:
        """Set the statistics of `norm: fixed` outputs from the expert's outputs over a sample of images.

        Raises:
            DataError: there is nothing to measure, or it is not finite.
        """
        wanted = [name for name, output in self.outputs.items() if _is_fixed(output)]
        sums = {name: torch.zeros(3, self.outputs[name].channels, dtype=torch.float64) for name in wanted}
        for outputs in batches:
            for name in wanted:
                values = outputs[name].cpu().double()  # type: ignore[union-attr]  # regions have no statistics; mps no double
                values = values.transpose(0, 1).flatten(1)
                count = torch.full((len(values),), float(values.shape[1]), dtype=torch.float64)
                sums[name] += torch.stack([count, values.sum(1), values.square().sum(1)])
        for name, (count, first, second) in sums.items():
            if not count.all() or not (first.isfinite() & second.isfinite()).all():
                raise DataError(
                    f"output {name!r} over {int(count.min())} positions has no finite statistics; calibrate on images "
                    "for which the expert gives finite values"
                )
            mean = first / count
            std = (second / count - mean.square()).clamp(min=0).sqrt()
            # A channel that never varies carries nothing; dividing by its zero spread would make it everything.
            std = torch.where(std > TINY, std, torch.ones_like(std))
            self.get_buffer(f"{name}-mean").copy_(mean)
            self.get_buffer(f"{name}-std").copy_(std)

    def _align(self, name: str, values: Tensor | RegionBatch) -> Tensor:
        output = self.outputs[name]
        if isinstance(output, Regions):
            return self._rasterise(values)  # type: ignore[arg-type]  # the hub checked it
        return self._resample(name, output, values)  # type: ignore[arg-type]  # the hub checked it

    def _rasterise(self, regions: RegionBatch) -> Tensor:
        batch, count = regions.scores.shape
        if regions.text is not None and self.texts is not None:
            vectors = self.texts([text for row in regions.text for text in row])
            embeddings = vectors.to(regions.boxes).reshape(batch, count, vectors.shape[-1])
        elif regions.features is not None:
            embeddings = F.normalize(regions.features, dim=-1)
        else:
            embeddings = regions.boxes.new_zeros(batch, count, 0)
        # Unit length, times the root of the width: a channel then varies about as much as one of a normalised map.
        embeddings = embeddings * embeddings.shape[-1] ** 0.5
        return rasterise(regions.boxes, regions.scores, embeddings, self.grid, masks=regions.masks)

    def _resample(self, name: str, output: Grid | Vector, values: Tensor) -> Tensor:
        fixed = _is_fixed(output)
        mean = self.get_buffer(f"{name}-mean") if fixed else None
        std = self.get_buffer(f"{name}-std") if fixed else None
        grid, fold = (self.grid, output.fold) if isinstance(output, Grid) else ((1, 1), 1)
        maps = values if isinstance(output, Grid) else values[:, :, None, None]
        tokens = align_tokens(maps, grid, norm=output.norm, mean=mean, std=std, fold=fold)
        return tokens if isinstance(output, Grid) else tokens.expand(-1, self.grid[0] * self.grid[1], -1)


def _is_fixed(output: Output) -> bool:
    return not isinstance(output, Regions) and output.norm == "fixed"
