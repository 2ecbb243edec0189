"""A vision expert at run time: frozen for good, in its own precision, held to what its spec promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn

from tove_core.errors import ContractError, PluginError, ToveError
from tove_core.hub.autocast import no_autocast
from tove_core.hub.microbatch import is_out_of_memory
from tove_core.hub.region_contract import checked_regions
from tove_core.hub.regions import RegionBatch
from tove_core.spec import ExpertSpec, Grid, Output, Regions, Vector

ExpertOutput = Tensor | RegionBatch
"""A grid [B, C, h, w], a vector [B, C], or regions."""


class FrozenExpert(nn.Module):
    """Wraps the module an expert's factory built.

    Parameters need no gradient, `train()` keeps evaluation mode, and the forward pass records nothing. It is not run
    in inference mode, even if its caller is: tensors made there have no version to tell who wrote into them, and no
    trained layer could save what an expert keeps of them for its backward pass.
    """

    def __init__(self, module: nn.Module, spec: ExpertSpec, name: str) -> None:
        """Freeze `module` in place.

        Args:
            module: maps normalised pixels [B, 3, H, W] to a mapping of output name to tensor or `RegionBatch`.
            spec: what the expert promises, its variant applied.
            name: the name under which the model knows the expert.
        """
        super().__init__()
        self.module = module
        self.spec = spec
        self.name = name
        self.module.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Keep evaluation mode whatever is asked for."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # In a precision of real numbers a complex tensor, as rotary positions are, would lose its imaginary part.
        return super()._apply(lambda tensor: _applied(fn, tensor), recurse)

    @property
    def dtype(self) -> torch.dtype:
        """Precision the expert computes in: that of its parameters, float32 where it has none."""
        floating = (t.dtype for t in self._tensors() if t.is_floating_point())
        return next(floating, torch.float32)

    @property
    def device(self) -> torch.device | None:
        """Where the expert lies; None where it holds no tensor and computes wherever its input is."""
        return next((t.device for t in self._tensors()), None)

    @property
    def own_stream(self) -> bool:
        """Whether it is to run on a CUDA stream of its own."""
        return False

    def _tensors(self) -> Iterator[Tensor]:
        # Not as a list: the first is asked for in every call, and there are hundreds.
        return chain(self.module.parameters(), self.module.buffers())

    @torch.inference_mode(False)  # allows gradients too, so that `no_grad` must come inside
    @torch.no_grad()
    def forward(self, pixels: Tensor) -> dict[str, ExpertOutput]:
        """Return the expert's outputs in the order of its spec, in float32 on the device of the pixels.

        They are the caller's: the expert holds no part of them.

        Args:
            pixels: [B, 3, H, W], resampled and normalised as `spec.input` says.

        Raises:
            ContractError: pixels or outputs are not what the spec says, or the expert wrote into its input.
            PluginError: the expert's own code failed; the cause is chained. Running out of memory is none of it.
        """
        self._check_pixels(pixels)
        own = pixels.to(device=self.device or pixels.device, dtype=self.dtype)
        own = own.clone() if own.is_inference() else own
        version = own._version
        # The caller's autocast must not decide in which precision a frozen expert computes.
        with no_autocast(own.device.type):
            outputs = self._run(own)
        if own._version != version:
            raise ContractError(
                f"expert '{self.name}' wrote into its input, which others may share; use an operation out of place",
                about="input",
            )
        self._check_names(outputs)
        return {key: self._checked(key, promised, outputs[key], pixels) for key, promised in self.spec.outputs.items()}

    def _run(self, pixels: Tensor) -> Any:
        try:
            return self.module(pixels)
        except ToveError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise PluginError(
                f"expert '{self.name}' failed on pixels {list(pixels.shape)} ({type(error).__name__}: {error}); "
                "repair or update its plugin"
            ) from error

    def _check_pixels(self, pixels: Tensor) -> None:
        input, shape = self.spec.input, list(pixels.shape)
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
            raise ContractError(
                f"expert '{self.name}' got pixels of shape {shape} and {pixels.dtype}; give floats [B, 3, H, W]"
            )
        size = (shape[2], shape[3])
        if size == input.size:
            return
        if not input.dynamic:
            raise ContractError(f"expert '{self.name}' got pixels of size {size}; its spec wants {input.size}")
        strides = [o.stride for o in self.spec.outputs.values() if isinstance(o, Grid)]
        step = next((s for s in (input.patch or 1, *strides) if any(side % s for side in size)), None)
        if step is not None:
            raise ContractError(
                f"expert '{self.name}' got pixels of size {size}; both sides must be multiples of {step}"
            )

    def _check_names(self, outputs: object) -> None:
        if not isinstance(outputs, Mapping):
            raise ContractError(
                f"expert '{self.name}' returned {type(outputs).__name__}; return a mapping of output name to tensor"
            )
        missing = sorted(map(str, self.spec.outputs.keys() - outputs.keys()))
        extra = sorted(map(str, outputs.keys() - self.spec.outputs.keys()))
        if missing or extra:
            raise ContractError(
                f"expert '{self.name}' returned outputs with {missing or 'none'} missing and {extra or 'none'} extra; "
                f"its spec promises exactly {sorted(self.spec.outputs)}"
            )

    def _checked(self, key: str, promised: Output, tensor: object, pixels: Tensor) -> ExpertOutput:
        if isinstance(promised, Regions):
            return checked_regions(
                tensor, promised, batch=len(pixels), device=pixels.device, expert=self.name, output=key
            )
        if not isinstance(tensor, Tensor):
            raise ContractError(
                f"expert '{self.name}': output '{key}' is {type(tensor).__name__}; the spec promises a tensor"
            )
        if not tensor.is_floating_point():  # whole numbers have lost what is between them; labels are no quantities
            raise ContractError(
                f"expert '{self.name}': output '{key}' is {tensor.dtype}; return floating point numbers, such as "
                "scores or one channel for each label"
            )
        shape = promised_shape(promised, pixels)
        if tuple(tensor.shape) != shape:
            reason = f" (stride {promised.stride})" if isinstance(promised, Grid) else ""
            raise ContractError(
                f"expert '{self.name}': output '{key}' has shape {list(tensor.shape)}; the spec promises {list(shape)} "
                f"for {pixels.shape[2]}x{pixels.shape[3]} input{reason}"
            )
        # A copy: an expert may write into the same tensor at its next call, or be in inference mode by itself, whose
        # tensors no trained layer could save.
        return tensor.to(device=pixels.device, dtype=torch.float32, copy=True)


def _applied(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """Return what a conversion makes of a tensor; a complex one that would become real is only moved."""
    if not tensor.is_complex() or fn(tensor.new_empty(0)).is_complex():
        return fn(tensor)
    return tensor.to(fn(tensor.new_empty(0).real).device)


def promised_shape(output: Grid | Vector, pixels: Tensor) -> tuple[int, ...]:
    """Return the shape a grid or vector must have for pixels [B, 3, H, W]."""
    batch, _, height, width = pixels.shape
    if isinstance(output, Grid):
        return batch, output.channels, height // output.stride, width // output.stride
    return batch, output.channels
