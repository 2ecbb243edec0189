"""Bring what one expert gives to CLIP's grid: u_k [B, N, C_u]. Frozen, and exactly what a feature cache stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from tove_kernels import align_tokens

from tove_core.errors import ContractError, DataError
from tove_core.spec import ExpertSpec, Grid, Regions, Vector

TINY = 1e-6


def aligned_width(spec: ExpertSpec) -> int:
    """Return C_u, the channels of the aligned tokens of all outputs of an expert.

    Raises:
        ContractError: the expert gives regions, which this version cannot lay onto tokens.
    """
    return sum(_width(spec.name, name, output) for name, output in spec.outputs.items())


def _width(expert: str, name: str, output: Grid | Vector | Regions) -> int:
    if isinstance(output, Regions):
        raise ContractError(
            f"{expert}: output {name!r} is declared as regions, which this version of tove cannot lay onto tokens yet; "
            "use an expert with grid or vector outputs"
        )
    return output.channels * output.fold**2 if isinstance(output, Grid) else output.channels


class Align(nn.Module):
    """Normalise, resample and fold an expert's outputs; several outputs follow each other in the channels.

    Statistics for `norm: fixed` are buffers: `measure` sets them once, the checkpoint keeps them.
    """

    def __init__(self, spec: ExpertSpec, grid: tuple[int, int]) -> None:
        super().__init__()
        self.outputs = dict(spec.outputs)
        self.grid = grid
        self.width = aligned_width(spec)
        for name, output in self.outputs.items():
            if output.norm == "fixed":  # type: ignore[union-attr]  # aligned_width refused regions
                self.register_buffer(f"{name}-mean", torch.zeros(output.channels))
                self.register_buffer(f"{name}-std", torch.ones(output.channels))

    @property
    def needs_measuring(self) -> bool:
        """Whether any output is normalised by statistics of its own."""
        return any(True for _ in self.buffers())

    @torch.no_grad()
    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return u [B, N, C_u], float32, from the expert's outputs [B, C, h, w] or [B, C]."""
        return torch.cat([self._align(name, outputs[name]) for name in self.outputs], -1)

    @torch.no_grad()
    def measure(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Set the statistics of `norm: fixed` outputs from the expert's outputs over a sample of images.

        Raises:
            DataError: there is nothing to measure, or it is not finite.
        """
        wanted = [name for name, output in self.outputs.items() if output.norm == "fixed"]  # type: ignore[union-attr]
        sums = {name: torch.zeros(3, self.outputs[name].channels, dtype=torch.float64) for name in wanted}
        for outputs in batches:
            for name in wanted:
                values = outputs[name].double().transpose(0, 1).flatten(1).cpu()
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

    def _align(self, name: str, values: Tensor) -> Tensor:
        output = self.outputs[name]
        fixed = output.norm == "fixed"  # type: ignore[union-attr]
        mean = self.get_buffer(f"{name}-mean") if fixed else None
        std = self.get_buffer(f"{name}-std") if fixed else None
        grid, fold = (self.grid, output.fold) if isinstance(output, Grid) else ((1, 1), 1)
        maps = values if isinstance(output, Grid) else values[:, :, None, None]
        tokens = align_tokens(maps, grid, norm=output.norm, mean=mean, std=std, fold=fold)  # type: ignore[union-attr]
        return tokens if isinstance(output, Grid) else tokens.expand(-1, self.grid[0] * self.grid[1], -1)
