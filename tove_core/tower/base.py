"""What every CLIP tower offers: tokens of a chosen block, the pooled embedding, text embedding and strict freezing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from tove_core.errors import ConfigError, ImageError
from tove_core.hub.autocast import no_autocast
from tove_core.hub.rasters import Colour
from tove_core.spec import Input
from tove_core.tower.activation import Activation

__all__ = ["Activation", "ResizeMode", "Tokens", "Tower", "block_index", "image_input"]

ResizeMode = Literal["shortest", "longest", "squash"]
"""How the model's own transform meets its input size: crop after the short side fits, pad, or squash."""

_TEXTS_AT_ONCE = 256


class Tokens(NamedTuple):
    """What a tower sees: `patches` [B, N, D] in row-major order of its grid, and `cls` [B, D] where it has one."""

    patches: Tensor
    cls: Tensor | None


class Tower(nn.Module):
    """A CLIP: an image tower whose tokens are taken after one block, and a text tower where the model has one.

    Attributes:
        reference: the name it was loaded by.
        input: pixels it was trained on: size, mean, std, interpolation.
        resize_mode: how its own transform brings an image to that size; used for zero-shot figures and exports.
        fill: colour of the padding of that transform, 0..1, where it pads; None: the mean it normalises by.
        width: D, channels of a token.
        grid: rows and columns of the patch tokens; N is their product.
        embed_width: E, width of the pooled embedding; None if it has none.
        layer: as configured, e.g. -2.
        block: the same counted from 0.
        blocks: number of blocks of the image tower.
        activation: what the built blocks compute, measured rather than read from a configuration.
        weights_sha256: of the file the weights came from; None for random weights.
        revision: commit of the hub repository it came from; None where it came from none.
    """

    def __init__(
        self,
        *,
        reference: str,
        input: Input,
        resize_mode: ResizeMode,
        width: int,
        grid: tuple[int, int],
        embed_width: int | None,
        layer: int,
        blocks: int,
        activation: Activation,
        weights_sha256: str | None,
        revision: str | None = None,
        fill: Colour | None = None,
    ) -> None:
        super().__init__()
        self.reference = reference
        self.input = input
        self.resize_mode: ResizeMode = resize_mode
        self.fill = fill
        self.width = width
        self.grid = grid
        self.embed_width = embed_width
        self.layer = layer
        self.blocks = blocks
        self.block = block_index(layer, blocks, reference)
        self.activation: Activation = activation
        self.weights_sha256 = weights_sha256
        self.revision = revision
        self._frozen = False
        self._constant: frozenset[str] = frozenset()
        self._tokenizer: Any = None

    # What an implementation gives.

    @property
    def vision(self) -> nn.Module:
        """The part that sees, whose parameters `thaw` makes trainable."""
        raise NotImplementedError

    def _features(self, pixels: Tensor) -> Tokens:
        raise NotImplementedError

    def _embed(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    def _features_and_embedding(self, pixels: Tensor) -> tuple[Tokens, Tensor]:
        raise NotImplementedError

    def _embed_text(self, texts: list[str]) -> Tensor:
        raise NotImplementedError

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return what the text tower's tokenizer makes of texts, cut and padded to the tower's length."""
        raise NotImplementedError

    @property
    def text_width(self) -> int | None:
        """Width of text embeddings; None where the model has no text tower."""
        raise NotImplementedError

    # What callers use.

    @property
    def tokens(self) -> int:
        """N, the number of patch tokens."""
        return self.grid[0] * self.grid[1]

    @property
    def device(self) -> torch.device:
        """Where the image tower lies."""
        return next(self.vision.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the image tower computes in, and the dtype of its tokens."""
        return next(self.vision.parameters()).dtype

    def features(self, pixels: Tensor) -> Tokens:
        """Return the tokens after the chosen block, without final norm; later blocks are not computed.

        Gradients flow. `pixels` [B, 3, H, W] are normalised as `input` says and cast to the tower's dtype.

        Raises:
            ImageError: the pixels are not of the size the tower was built for.
        """
        return self._features(self._checked(pixels))

    def forward(self, pixels: Tensor) -> Tokens:
        """Return `features` without gradient, in the tower's own dtype whatever the caller's autocast says."""
        with torch.no_grad(), no_autocast(self.device.type):
            return self.features(pixels)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return the pooled image embedding [B, E], not normalised; gradients flow.

        Raises:
            ImageError: the pixels are not of the size the tower was built for.
            ConfigError: the model has no image embedding.
        """
        return self._embed(self._checked(pixels))

    def features_and_embedding(self, pixels: Tensor) -> tuple[Tokens, Tensor]:
        """Return what `features` and `embed` return, from one pass through the blocks; gradients flow.

        Raises:
            ImageError: the pixels are not of the size the tower was built for.
            ConfigError: the model has no image embedding.
        """
        return self._features_and_embedding(self._checked(pixels))

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Return text embeddings [T, E], not normalised and without gradient.

        Raises:
            ConfigError: there are no texts, or the model has no text tower or no tokenizer.
        """
        if isinstance(texts, str) or not texts:
            raise ConfigError(f"embed_text was given {texts!r}; give a list of at least one string")
        texts = list(texts)
        with torch.no_grad():
            parts = [self._embed_text(texts[i : i + _TEXTS_AT_ONCE]) for i in range(0, len(texts), _TEXTS_AT_ONCE)]
        return torch.cat(parts)

    def freeze(self) -> Self:
        """Take all gradients away and keep evaluation mode, whatever `train()` is called later."""
        # Some parameters are constants by design (sine-cosine positions): thawing must not make them trainable.
        if not self._frozen:
            self._constant = frozenset(n for n, p in self.vision.named_parameters() if not p.requires_grad)
        self._frozen = True
        self.requires_grad_(False)
        return self.eval()

    def thaw(self) -> Self:
        """Make the image tower trainable again; the text tower stays frozen, so that text keeps its meaning."""
        self._frozen = False
        for name, parameter in self.vision.named_parameters():
            parameter.requires_grad_(name not in self._constant)
        return self.train()

    def trainable_copy(self) -> Self:
        """Return an independent, thawed copy whose image tower is float32; this tower stays as it is.

        Half precision would round away what one step of training changes.
        """
        tower = copy.deepcopy(self).thaw()
        tower.vision.float()
        return tower

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except that a frozen tower keeps evaluating and only the image tower ever trains."""
        super().train(False)
        self.training = mode and not self._frozen
        self.vision.train(self.training)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Copies load their tokenizer when they need it: it is large and most copies never see text.
        return {**self.__dict__, "_tokenizer": None}

    def _checked(self, pixels: Tensor) -> Tensor:
        height, width = self.input.size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, height, width):
            raise ImageError(
                f"pixels have shape {list(pixels.shape)} but {self.reference!r} sees [B, 3, {height}, {width}]; "
                "resample the image, or load the tower with another image_size"
            )
        if not pixels.is_floating_point():
            raise ImageError(f"pixels are {pixels.dtype}; normalise them to floating point as the tower's input says")
        return pixels.to(self.dtype)


def block_index(layer: int, blocks: int, reference: str) -> int:
    """Return `layer` (negative: from the end) as an index from 0.

    Raises:
        ConfigError: the tower has no such block.
    """
    if not -blocks <= layer < blocks:
        raise ConfigError(f"layer {layer} of {reference!r} does not exist; choose from {-blocks} to {blocks - 1}")
    return layer % blocks


def image_input(
    size: tuple[int, int], patch: tuple[int, int], preprocess: dict[str, object], *, wanted: bool, reference: str
) -> Input:
    """Return the `Input` of a tower from its size and its preprocessing (mean, std, interpolation).

    Args:
        size: height and width in pixels.
        patch: height and width of one patch in pixels.
        preprocess: `mean`, `std` (three numbers each) and `interpolation`.
        wanted: whether the caller asked for this size; then it must be whole patches. Some published models are not.
        reference: named in errors.

    Raises:
        ConfigError: the size is not whole patches, or the preprocessing is not one tove can do.
    """
    whole = patch[0] == patch[1] and size[0] % patch[0] == 0 and size[1] % patch[1] == 0
    if wanted and not whole:
        raise ConfigError(
            f"image_size {size[0]} is not a multiple of the patch {patch[0]} of {reference!r}; "
            f"use {max(size[0] // patch[0], 1) * patch[0]}"
        )
    try:
        return Input.model_validate(
            {
                "size": size,
                "patch": patch[0] if whole else None,
                "mean": tuple(preprocess["mean"]),  # type: ignore[arg-type]
                "std": tuple(preprocess["std"]),  # type: ignore[arg-type]
                "interpolation": preprocess["interpolation"],
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the preprocessing of {reference!r} is {preprocess}, which is not three-channel mean and std with bicubic "
            "or bilinear interpolation; choose another model"
        ) from error
