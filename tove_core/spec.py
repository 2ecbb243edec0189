"""What a vision expert declares about itself: plain data, readable without torch.

Shape letters used throughout tove: B images, N tokens of the CLIP grid, K experts, C channels, H and W pixels.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

API = 1
"""Version of the contract between tove-core and its plugins; within one version fields are only added."""

NAME = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
REVISION = r"^[0-9a-f]{40}$"
SHA256 = r"^[0-9a-f]{64}$"
SAFETENSORS_FILE = r"^[^/\\].*\.safetensors$"


def _import_path(value: Any) -> Any:
    """Return the path `module:function` of a function, a text as it is; a spec is data and holds the path alone.

    Raises:
        ValueError: the function is not found by such a path.
    """
    if isinstance(value, str) or not callable(value):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if getattr(sys.modules.get(module or ""), name, None) is not value:
        raise ValueError(
            f"{name or value!r} of {module} is not found by that name, as a lambda, a method or a function inside "
            "another is not; define it with def at the top level of a module or notebook"
        )
    return f"{module}:{name}"


Name = Annotated[str, StringConstraints(pattern=NAME)]
ImportPath = Annotated[str, BeforeValidator(_import_path), StringConstraints(pattern=IMPORT_PATH)]
Revision = Annotated[str, StringConstraints(pattern=REVISION)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256)]
SafetensorsFile = Annotated[str, StringConstraints(pattern=SAFETENSORS_FILE)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Channels3 = tuple[float, float, float]


class Frozen(BaseModel):
    """Base of everything declared: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(Frozen):
    """The pixels an expert wants: the hub resamples the view to `size` and normalises it."""

    size: tuple[Positive, Positive] = Field(description="height and width in pixels")
    patch: Positive | None = Field(default=None, description="both sides of `size` are multiples of it")
    mean: Channels3 = Field(default=(0.0, 0.0, 0.0), description="subtracted per channel, in units of `range`")
    std: Channels3 = Field(default=(1.0, 1.0, 1.0), description="divided by per channel, in units of `range`")
    range: tuple[float, float] = Field(default=(0.0, 1.0), description="black and white before mean and std")
    interpolation: Literal["bicubic", "bilinear"] = Field(
        default="bicubic", description="how the view is resampled, always antialiased"
    )
    dynamic: bool = Field(default=False, description="other sizes that are multiples of `patch` work too")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.patch and any(side % self.patch for side in self.size):
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        if any(s <= 0 for s in self.std):
            raise ValueError(f"std {self.std} has an entry that is not positive")
        if self.range[0] >= self.range[1]:
            raise ValueError(f"range {self.range} is empty; give (black, white)")
        return self


class Grid(Frozen):
    """A dense map `[B, C, H / stride, W / stride]` that covers the whole view."""

    kind: Literal["grid"] = Field(default="grid", description="tells outputs apart")
    channels: Positive = Field(description="C")
    stride: Positive = Field(description="input pixels per position; divides both sides of the input")
    norm: Literal["position", "fixed", "none"] = Field(
        default="position",
        description="position: each position over its channels (from 32 channels up); "
        "fixed: statistics per channel, measured once and saved with the model; none: as it comes",
    )
    fold: Annotated[int, Field(ge=1, le=16)] = Field(
        default=1, description="resample to `fold` times CLIP's grid and fold space into channels"
    )

    @model_validator(mode="after")
    def _enough_channels(self) -> Self:
        if self.norm == "position" and self.channels < 32:
            raise ValueError(
                f"norm 'position' over {self.channels} channels would erase the map; from 32 channels up, else 'fixed'"
            )
        return self


class Vector(Frozen):
    """One descriptor per image, `[B, C]`; every token sees it."""

    kind: Literal["vector"] = Field(default="vector", description="tells outputs apart")
    channels: Positive = Field(description="C")
    norm: Literal["position", "fixed", "none"] = Field(default="position", description="as for Grid")


class Regions(Frozen):
    """Up to `limit` regions per image, given as a `tove_core.RegionBatch` and laid onto the tokens they cover.

    `boxes` `[B, R, 4]` (left, top, right, bottom in 0..1), `scores` `[B, R]`, `valid` `[B, R]`, and what lies in them:
    `features` `[B, R, C]`, of which only the direction counts, or with `text=True` a label or a word each, which
    CLIP's own text tower embeds. With neither, where something is and how large is all that is said. `masks`
    `[B, R, h, w]` may give shapes instead of boxes.
    """

    kind: Literal["regions"] = Field(default="regions", description="tells outputs apart")
    channels: Annotated[int, Field(ge=0)] = Field(default=0, description="width of the features; 0 with text")
    limit: Positive = Field(description="most regions per image, R")
    text: bool = Field(default=False, description="a label or word per region instead of features")

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        if self.text and self.channels:
            raise ValueError(f"text and {self.channels} channels of features are both declared; declare one of them")
        return self


Output = Annotated[Grid | Vector | Regions, Field(discriminator="kind")]


class Weights(Frozen):
    """Where the parameters come from: a hub repository, a file inside the plugin's own package, or a local folder.

    `revision` and `sha256` stay empty where the true value is not known; the first download then records both in the
    user's lock file, and every later load is checked against it.
    """

    repo: str | None = Field(default=None, description="hub id, owner/name")
    package: str | None = Field(default=None, description="import package that ships the file")
    folder: str | None = Field(default=None, description="local folder, which a `family` was asked for by its user")
    file: SafetensorsFile = Field(
        default="model.safetensors", description="path inside the repository, package or folder"
    )
    revision: Revision | None = Field(default=None, description="commit, 40 hex digits")
    sha256: Sha256 | None = Field(default=None, description="hash of the file, 64 hex digits")
    size: Positive | None = Field(default=None, description="bytes")
    license: str = Field(min_length=2, description="SPDX identifier of the weights, or LicenseRef-...")
    license_url: str | None = Field(default=None, description="where its text is")
    commercial: bool | None = Field(default=None, description="whether the licence allows commercial use, if known")
    gated: bool = Field(default=False, description="the repository gives files only to those who accepted its terms")
    more: dict[Name, Weights] = Field(
        default_factory=dict,
        description="further files of the same expert; `convert` gets their tensors as `name.tensor`",
    )

    def files(self) -> dict[str, Weights]:
        """Return every file by its name: this one under the empty name, then `more`."""
        return {"": self} | self.more

    @model_validator(mode="after")
    def _one_level(self) -> Self:
        if any(part.more for part in self.more.values()):
            raise ValueError("a file in more has more itself; list all files side by side")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.repo, self.package, self.folder)) != 1:
            raise ValueError("give exactly one of repo (a hub id), package (an import name) and folder (a local one)")
        return self

    @field_validator("license")
    @classmethod
    def _spdx(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*", value):
            raise ValueError(f"{value!r} is not an SPDX identifier such as 'Apache-2.0'; others: 'LicenseRef-name'")
        return value


class Cost(Frozen):
    """What one image costs at `Input.size`, as its author states it; `tove experts check` holds it to the module."""

    params: Annotated[int, Field(ge=0)] = Field(description="parameters of the built architecture")
    flops: Annotated[int, Field(ge=0)] | None = Field(default=None, description="multiply-adds counted as two")


class Variant(Frozen):
    """What a variant (a size, a training set) changes in its expert's spec."""

    summary: str | None = Field(default=None, description="in place of the expert's")
    input: Input | None = Field(default=None, description="in place of the expert's")
    outputs: dict[Name, Output] | None = Field(default=None, description="in place of the expert's, all of them")
    weights: Weights | None = Field(default=None, description="in place of the expert's")
    cost: Cost | None = Field(default=None, description="in place of the expert's")
    options: dict[str, Any] = Field(default_factory=dict, description="laid over the expert's")


class ExpertSpec(Frozen):
    """A vision expert: data, plus the name of a function that builds its architecture."""

    api: Literal[1] = Field(description="contract version; 1 is what this tove-core knows")
    name: Name = Field(description="unique within its distribution")
    summary: Annotated[str, StringConstraints(min_length=1, max_length=80)] = Field(description="one line for tables")
    factory: ImportPath = Field(
        description="module:function, or the function, which is kept as its path; called with a BuildContext, builds "
        "architecture only"
    )
    convert: ImportPath | None = Field(default=None, description="module:function, state dict to state dict")
    input: Input = Field(description="the pixels it wants")
    outputs: dict[Name, Output] = Field(min_length=1, description="what it gives, by name")
    weights: Weights | None = Field(default=None, description="None: the expert has no parameters to load")
    cost: Cost | None = Field(default=None, description="what one image costs")
    options: dict[str, Any] = Field(default_factory=dict, description="handed to the factory")
    tiny: dict[str, Any] | None = Field(
        default=None,
        description="laid over the options for the conformance checks: a small architecture of the same code path, "
        "whose strides are those of the outputs and whose channels may differ",
    )
    tiny_input: Input | None = Field(default=None, description="with `tiny`, in place of the input")
    variants: dict[Name, Variant] = Field(default_factory=dict, description="by name, requested as name:variant")
    default: Name | None = Field(default=None, description="variant taken when none is named")
    family: ImportPath | None = Field(
        default=None,
        description="module:function, called with a request's text after the colon where it names none of `variants`; "
        "returns a Variant. The spec's own options, weights, cost and tiny are those of one member",
    )
    homepage: str | None = Field(default=None, description="web address")
    citation: str | None = Field(default=None, description="paper, such as arXiv:2304.07193")

    @model_validator(mode="after")
    def _default_exists(self) -> Self:
        if self.default is not None and self.default not in self.variants:
            raise ValueError(f"default {self.default!r} is not one of the variants {sorted(self.variants)}")
        return self

    @model_validator(mode="after")
    def _strides_divide(self) -> Self:
        for name, output in self.outputs.items():
            if isinstance(output, Grid) and any(side % output.stride for side in self.input.size):
                raise ValueError(f"outputs.{name}: stride {output.stride} does not divide the input {self.input.size}")
        return self

    @model_validator(mode="after")
    def _tiny_input_fits(self) -> Self:
        if self.tiny_input is None:
            return self
        if self.tiny is None:
            raise ValueError("tiny_input without tiny; give tiny, if need be as {}")
        for name, output in self.outputs.items():
            if isinstance(output, Grid) and any(side % output.stride for side in self.tiny_input.size):
                raise ValueError(
                    f"outputs.{name}: stride {output.stride} does not divide tiny_input {self.tiny_input.size}"
                )
        return self

    @model_validator(mode="after")
    def _variants_fit(self) -> Self:
        # Told when declared: a variant that fails only when taken would break whoever lists the experts.
        for name in self.variants:
            try:
                self.variant(name)
            except ValidationError as error:
                problems = "; ".join(problem["msg"] for problem in error.errors(include_url=False))
                raise ValueError(f"variants.{name}: {problems}") from error
        return self

    def variant(self, name: str | None = None) -> ExpertSpec:
        """Return the spec with variant `name` (or the default one) applied and no variants left.

        Raises:
            KeyError: there is no such variant.
        """
        name = name if name is not None else self.default
        if name is None:
            return self.model_copy(update={"variants": {}, "default": None, "family": None})
        return self._applied(self.variants[name])

    def member(self, variant: Variant) -> ExpertSpec:
        """Return the spec of another member of the family, of which nothing but `variant` says what is particular.

        Raises:
            pydantic.ValidationError: the two together make no valid spec.
        """
        own = {"weights": None, "cost": None, "options": {}, "tiny": None, "tiny_input": None}
        return self.model_copy(update=own)._applied(variant)

    def _applied(self, variant: Variant) -> ExpertSpec:
        changed = variant.model_dump(exclude_none=True, exclude={"options"})
        merged = self.model_dump(exclude={"variants", "default", "family"}) | changed
        merged["options"] = self.options | variant.options
        return ExpertSpec.model_validate(merged)


@dataclass(frozen=True)
class BuildContext:
    """What a factory is told: the resolved spec and its options. No paths: factories build architecture only."""

    spec: ExpertSpec
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
