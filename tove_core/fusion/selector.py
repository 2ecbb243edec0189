"""What each expert is expected to save on an image, told from CLIP's tokens alone, and which ones are worth running.

B images, N tokens of CLIP's grid, D CLIP's width, K experts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tove_core.spec import Frozen, Positive


class Selection(Frozen):
    """What a selector decides by; saved with the model."""

    budget: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="mean cost of an image that was allowed, as a share of running all experts"
    )
    price: Annotated[float, Field(ge=0)] = Field(
        description="nats per answer token an expert must be expected to save for each unit of cost"
    )
    costs: dict[str, Annotated[float, Field(ge=0)]] = Field(
        description="cost of each expert that is chosen, as a share of running all"
    )
    hidden: Positive = Field(default=64, description="width of the selector's hidden layer")

    def __str__(self) -> str:
        """Return one line."""
        return f"experts are chosen image by image, for a mean cost of {self.budget:g} of running all of them"

    def without(self, gone: Collection[str]) -> Selection | None:
        """Return the same once experts have left; None: there is nothing left to choose."""
        kept = {name: cost for name, cost in self.costs.items() if name not in gone}
        return self.model_copy(update={"costs": kept}) if kept else None


class Expected(NamedTuple):
    """What a selector expects of images: what each expert saves [B, K], and the loss without any of them [B].

    In nats per answer token; experts in the order of `Selection.costs`.
    """

    values: Tensor
    baseline: Tensor


class Selector(nn.Module):
    """LayerNorm on v [B, N, D], its mean over tokens, a small MLP; one row of the last layer per expert.

    Rows are kept by name, so that an expert can leave. All start at zero: nothing is worth running.

    Attributes:
        selection: what the choice is made by.
    """

    def __init__(self, width: int, selection: Selection) -> None:
        super().__init__()
        self.selection = selection
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, selection.hidden)
        self.rows = nn.ModuleDict({name: _row(selection.hidden) for name in selection.costs})
        self.baseline = _row(selection.hidden)

    @property
    def experts(self) -> list[str]:
        """The K experts it decides on."""
        return list(self.rows)

    def forward(self, tokens: Tensor) -> Expected:
        """Return what is expected of images, given v [B, N, D]."""
        tokens = self.norm(tokens.to(self.hidden.weight.dtype))
        # The mean alone: with the maximum beside it, some hundreds of images were learnt by heart.
        hidden = F.gelu(self.hidden(tokens.mean(1)))
        # Row by row: in one product a row's last bit could depend on how many there are.
        values = torch.cat([row(hidden) for row in self.rows.values()], -1)
        return Expected(values, self.baseline(hidden)[:, 0])

    @torch.no_grad()
    def choose(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return for each expert which images it runs on, bool [B], given v [B, N, D]."""
        values = self(tokens).values
        chosen = (worth(values, self.selection.costs) > self.selection.price).to(values.device)
        return {name: chosen[:, k] for k, name in enumerate(self.experts)}

    def without(self, gone: Collection[str]) -> Self | None:
        """Return the selector of the experts that are left, parameters shared; None: none is."""
        selection = self.selection.without(gone)
        if selection is None:
            return None
        left = type(self)(self.norm.normalized_shape[0], selection)
        left.norm, left.hidden, left.baseline = self.norm, self.hidden, self.baseline
        left.rows = nn.ModuleDict({name: self.rows[name] for name in selection.costs})
        return left.train(self.training)


def worth(values: Tensor, costs: Mapping[str, float]) -> Tensor:
    """Return values [B, K] for each unit of cost, in float64; of an expert that costs nothing, infinity by its sign.

    What is not expected to save anything is worth nothing, so that it is chosen at no price. The result is on the CPU:
    not every device has float64 (MPS).
    """
    cost = torch.tensor(list(costs.values()), dtype=torch.float64)
    values = values.cpu().double().clamp(min=0)
    free = torch.where(values > 0, torch.inf, 0.0).to(values)
    return torch.where(cost > 0, values / cost.clamp(min=torch.finfo(torch.float64).tiny), free)


def _row(hidden: int) -> nn.Linear:
    row = nn.Linear(hidden, 1)
    nn.init.zeros_(row.weight)
    nn.init.zeros_(row.bias)
    return row
