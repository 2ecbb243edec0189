"""Where and how an expert runs: device, offloading, micro-batches, compilation. What it gives does not depend on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tove_core.config import ExpertConfig
from tove_core.errors import ConfigError
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.microbatch import MicroBatch
from tove_core.hub.offload import brought_to, pin
from tove_core.spec import ExpertSpec


@dataclass(frozen=True)
class Placement:
    """How an expert is to run."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where it computes."""
    offload: bool = False
    """Its weights are there only while it runs."""
    stream: bool = False
    """It has a CUDA stream of its own."""
    micro_batch: int | Literal["auto"] | None = None
    """Images at a time; None: the whole batch."""
    compile: bool | str = False
    """Run through torch.compile; a text names the backend."""

    @classmethod
    def of(cls, config: ExpertConfig, device: torch.device | str | None) -> Placement:
        """Return what a configuration asks for; `device` is where CLIP runs (None: the CPU).

        Raises:
            ConfigError: there is no such device, or no such backend of torch.compile.
        """
        place = usable_device(config.device or device or "cpu", f"expert {config.name!r}: device")
        if isinstance(config.compile, str):
            _require_backend(config.compile, config.name)
        return cls(place, config.offload, config.stream, config.micro_batch, config.compile)


class PlacedExpert(FrozenExpert):
    """A frozen expert that runs as its placement says; checked and frozen as any other."""

    def __init__(self, module: nn.Module, spec: ExpertSpec, name: str, placement: Placement) -> None:
        """Freeze and place `module`; the rest is as for `FrozenExpert`."""
        super().__init__(module, spec, name)
        self.placement = placement
        self._parts = None if placement.micro_batch is None else MicroBatch(name, placement.micro_batch)
        if not placement.offload:
            module.to(placement.device)
        elif placement.device.type == "cuda":
            pin(module)
        if placement.compile:
            backend = placement.compile if isinstance(placement.compile, str) else "inductor"
            # In place: names of parameters stay what they are, and with them checkpoints.
            module.compile(backend=backend)

    @property
    def device(self) -> torch.device | None:
        """Where the expert computes, also while its weights are elsewhere and where it has none."""
        own = None if self.placement.offload else super().device
        return own or self.placement.device

    @property
    def own_stream(self) -> bool:
        """Whether it is to run on a CUDA stream of its own."""
        return self.placement.stream

    @torch.inference_mode(False)
    @torch.no_grad()
    def forward(self, pixels: Tensor) -> dict[str, Any]:
        """Return the expert's outputs as `FrozenExpert` does.

        Raises:
            ContractError: pixels or outputs are not what the spec says.
            PlacementError: not even one image fits into memory.
        """
        if not self.placement.offload:
            return self._forward(pixels)
        with brought_to(self.module, self.placement.device):
            return self._forward(pixels)

    def _forward(self, pixels: Tensor) -> dict[str, Any]:
        if self._parts is None:
            return super().forward(pixels)
        return self._parts.run(super().forward, pixels, self.device or pixels.device)


def usable_device(device: torch.device | str, what: str) -> torch.device:
    """Return a device after trying it, with its index where it has one.

    Args:
        what: what the error calls the device, which begins with it: `--device`, `the model's device`.

    Raises:
        ConfigError: there is no such device here, or it holds no values.
    """
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"{what} {str(device)!r} cannot be used here ({reason}); choose another device, such as cpu"
        ) from error
    if place.type == "meta":
        raise ConfigError(f"{what} 'meta' cannot be used: tensors there have no values; give cpu, cuda or another")
    return place


def _require_backend(name: str, expert: str) -> None:
    known = torch.compiler.list_backends(exclude_tags=())
    if name not in known:
        raise ConfigError(
            f"expert {expert!r} is to be compiled by {name!r}, which torch does not have; choose {', '.join(known)}"
        )
