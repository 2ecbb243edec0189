"""The one configuration tree: what a model is made of and how a run trains it. No torch.

Files are YAML; `--set a.b=v` changes one key; a key that does not exist is an error that names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tove_core.spec import Frozen, Positive

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Dtype = Literal["float32", "bfloat16", "float16"]
Rule = Literal["zero", "renormalise"]
"""How an expert is switched off. zero: its term goes and the softmax still counts it; renormalise: its row goes too."""


class ClipConfig(Frozen):
    """The frozen CLIP whose tokens are enhanced."""

    name: str = Field(
        default="ViT-B-16/openai",
        description="open_clip 'MODEL/TAG', 'local-dir:FOLDER', 'hf-hub:OWNER/NAME'; transformers 'hf:OWNER/NAME' or "
        "'hf:FOLDER'; 'package:MODULE/FOLDER' for files inside an installed package",
    )
    layer: int = Field(default=-2, description="block whose output gives the tokens; -1 is the last, no final norm")
    image_size: Positive | None = Field(default=None, description="side in pixels; None: as the model was trained")
    dtype: Dtype = "float32"


class ExpertConfig(Frozen):
    """One requested expert: `name`, `name:variant` or `distribution/name[:variant]`."""

    name: str
    dtype: Dtype = "float32"
    device: str | None = None

    @property
    def key(self) -> str:
        """The name under which the model knows the expert."""
        return self.name


class GateConfig(Frozen):
    """The token-aware gate (ToVE, section on the gating network)."""

    activation: Literal["softmax", "sigmoid"] = "softmax"
    hidden: Positive = 32
    temperature: Annotated[float, Field(gt=0)] = 1.0
    null: bool = Field(default=False, description="one more entry in the softmax that stands for no expert")
    noise: NonNegative = Field(default=0.3, description="standard deviation added to the logits in training")
    balance: NonNegative = Field(default=0.01, description="weight of the importance loss (squared CV of gate mass)")
    balance_warmup: Annotated[int, Field(ge=0)] = Field(default=50, description="steps before that loss counts")
    expert_dropout: Fraction = Field(default=0.1, description="chance that a sample trains without a given expert")


class FusionConfig(Frozen):
    """How expert knowledge enters the tokens."""

    kind: Literal["gate", "uniform", "concat", "clip-mlp"] = "gate"
    hidden: Positive | None = Field(default=None, description="width H of the projector; None: CLIP's width")
    init: Literal["rms", "zero"] = Field(
        default="rms", description="rms: the residual starts at `residual` of the rms of v; zero: it starts at nothing"
    )
    residual: Annotated[float, Field(gt=0)] = 0.5
    rule: Rule = "zero"
    gate: GateConfig = GateConfig()
    parameters: Positive | None = Field(
        default=None, description="choose `hidden` so that the fusion trains about this many parameters"
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.hidden is not None and self.parameters is not None:
            raise ValueError("hidden and parameters both fix the projector's width; give one of them")
        return self


class DecoderConfig(Frozen):
    """The language model and how it is conditioned on the tokens."""

    name: str = "HuggingFaceTB/SmolLM2-135M"
    kind: Literal["prefix", "cross-attention"] = "prefix"
    train: Literal["none", "cross-attention", "all"] = Field(
        default="none", description="what of the language model is trained beside the projector"
    )
    prompt: str = Field(
        default="auto",
        description="'auto': the tokenizer's chat template if it has one, else '{image}\\n{prompt}'; or a template "
        "with {image} and {prompt}",
    )
    caption_prompt: str = "Describe the image."
    max_new_tokens: Positive = 32
    projector: str | None = Field(
        default=None,
        description="safetensors file to start the projector from: a path, or 'package:MODULE/FILE'; None: random",
    )
    dtype: Dtype = "float32"

    @field_validator("prompt")
    @classmethod
    def _placeholders(cls, value: str) -> str:
        if value != "auto" and (value.count("{image}") != 1 or value.count("{prompt}") != 1):
            raise ValueError(f"prompt {value!r} must hold {{image}} and {{prompt}} once each, or be 'auto'")
        return value

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.train == "cross-attention" and self.kind == "prefix":
            raise ValueError(
                "train 'cross-attention' needs kind 'cross-attention'; a prefix decoder has no such layers"
            )
        return self


class ModelConfig(Frozen):
    """Everything `tove_core.build` needs."""

    clip: ClipConfig = ClipConfig()
    experts: tuple[ExpertConfig, ...] = ()
    fusion: FusionConfig = FusionConfig()
    decoder: DecoderConfig | None = DecoderConfig()
    view: Literal["squash", "crop", "pad"] = Field(default="squash", description="region of the image that is seen")

    @field_validator("experts", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return tuple({"name": item} if isinstance(item, str) else item for item in value)
        return value

    @field_validator("experts")
    @classmethod
    def _distinct(cls, value: tuple[ExpertConfig, ...]) -> tuple[ExpertConfig, ...]:
        keys = [expert.key for expert in value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"experts {twice} are requested twice")
        return value


class DataConfig(Frozen):
    """Which samples a run reads."""

    reader: str = Field(default="jsonl", description="name of a reader: world, easy-vqa, coco-captions, jsonl")
    path: Path | None = Field(default=None, description="file or folder of the data set")
    images: Path | None = Field(default=None, description="folder of the images, where it is not beside the file")
    split: str = "train"
    limit: Positive | None = Field(default=None, description="read only so many samples")


class TrainingConfig(Frozen):
    """One stage of transfer training."""

    steps: Positive = 1000
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    decoder_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="for the language model's own parameters; None: as learning_rate"
    )
    weight_decay: NonNegative = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    warmup: Annotated[int, Field(ge=0)] = 50
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: Positive = 10
    save_every: Positive | None = None
    cache: bool = Field(default=True, description="run CLIP and the experts once per image and keep their features")


class RunConfig(Frozen):
    """A whole training run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    validation: DataConfig | None = None
    training: TrainingConfig = TrainingConfig()
    output: Path = Path("runs/tove")
    seed: int = 0


class MergeConfig(Frozen):
    """How a copy of the CLIP tower learns to give the enhanced tokens by itself."""

    steps: Positive = 1000
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    decoder_learning_rate: Annotated[float, Field(gt=0)] | None = Field(default=None, description="None: learning_rate")
    weight_decay: NonNegative = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    warmup: Annotated[int, Field(ge=0)] = 30
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    feature: NonNegative = Field(default=2.0, description="weight of the distance to v', in units of the power of v'")
    language: NonNegative = Field(default=1.0, description="weight of the language loss")
    alignment: NonNegative = Field(
        default=0.5, description="weight of keeping the image embedding, and with it the text"
    )
    control: bool = Field(default=False, description="language loss alone: the fair comparison, no teacher")
