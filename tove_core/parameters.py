"""Count a model's parameters part by part, trained and frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from tove_core.model import ToveModel


@dataclass(frozen=True)
class Row:
    """One part of a model."""

    part: str
    trained: int
    frozen: int


@dataclass(frozen=True)
class ParametersReport:
    """Parameters of every part; `str()` gives a table."""

    rows: tuple[Row, ...]

    @property
    def trained(self) -> int:
        """Parameters a training run changes."""
        return sum(row.trained for row in self.rows)

    @property
    def frozen(self) -> int:
        """Parameters nothing changes."""
        return sum(row.frozen for row in self.rows)

    def __str__(self) -> str:
        """Return an aligned table with a total."""
        rows = [*self.rows, Row("total", self.trained, self.frozen)]
        width = max(len(row.part) for row in rows)
        lines = [f"{'part':<{width}}  {'trained':>14}  {'frozen':>14}"]
        lines += [f"{row.part:<{width}}  {row.trained:>14,}  {row.frozen:>14,}" for row in rows]
        return "\n".join(lines)


def count_parameters(model: ToveModel) -> ParametersReport:
    """Count the parameters of a model's parts; a tensor shared by two layers counts once."""
    parts: list[tuple[str, nn.Module | None]] = [("clip", model.tower)]
    parts += [(f"expert {key}", expert) for key, expert in model.experts.items()]
    parts += [("fusion", model.fusion), ("decoder", model.decoder), ("selector", model.selector)]
    return ParametersReport(tuple(_row(name, part) for name, part in parts if part is not None))


def _row(name: str, part: nn.Module) -> Row:
    counts = {True: 0, False: 0}
    for parameter in part.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return Row(name, counts[True], counts[False])
