"""The part of the configuration tree that says how something is trained; `tove_core.config` offers it. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tove_core.spec import Fraction, Frozen, NonNegative, Positive


class TrainingConfig(Frozen):
    """One stage of transfer training."""

    stage: Literal["transfer", "finetune"] | None = Field(
        default=None,
        description="recipe whose values hold where the file gives none; see the page on training. None: the defaults",
    )
    steps: Positive = Field(default=1000, description="steps of the optimiser")
    batch_size: Positive = Field(default=64, description="samples per step, over all processes together")
    accumulate: Positive = Field(
        default=1, description="parts in which a process takes its share of a step: less memory, the same result"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        default=1e-3, description="of the fusion and the projector, at its highest"
    )
    gate_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="for the gate; None: as learning_rate"
    )
    projector_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="for the decoder's projector; None: as learning_rate"
    )
    decoder_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="for the language model's own parameters; None: as learning_rate"
    )
    weight_decay: NonNegative = Field(default=0.01, description="of AdamW; norms and biases get none")
    betas: tuple[Fraction, Fraction] = Field(default=(0.9, 0.98), description="of AdamW")
    warmup: Annotated[int, Field(ge=0)] = Field(
        default=50, description="steps over which the learning rate rises; over the whole run it falls along a cosine"
    )
    clip_norm: Annotated[float, Field(gt=0)] = Field(default=1.0, description="largest norm of the gradient")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="fp32, or bf16 autocast; parameters stay in their own dtype"
    )
    checkpointing: bool = Field(
        default=False, description="compute the decoder's layers again in the backward pass: less memory, more time"
    )
    shard: Literal["none", "full"] = Field(
        default="none",
        description="full: divide the language model, frozen parameters too, among the processes (FSDP2); "
        "none: every process holds all of it",
    )
    average: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="decay of a moving average of the trained parameters, which the checkpoint then holds; None: none",
    )
    log_every: Positive = Field(default=10, description="steps between two lines of metrics.jsonl")
    validate_every: Positive | None = Field(
        default=None,
        description="steps between two measurements of the answer loss on `validation`, and after the last; None: none",
    )
    validate_limit: Positive = Field(
        default=500, description="measure it on the first so many samples at most, in a mixture of each part"
    )
    save_every: Positive | None = Field(
        default=None, description="steps between two states to resume from; None: no state is kept"
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        default=(), description="where metrics go beside metrics.jsonl: tensorboard, wandb; each is an extra"
    )
    cache: Path | bool = Field(
        default=True,
        description="true: run CLIP and the experts once per image and keep their features in memory; false: run them "
        "at every step; a path: read the features from the cache that 'tove cache build' made there",
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        default=2, description="threads that read and resample the images of the next step; 0: none, the same result"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.validate_every is not None and self.shard == "full":
            raise ValueError("validate_every measures a model that is whole, and shard full divides it; drop one")
        return self


class MergeConfig(Frozen):
    """How a copy of the CLIP tower learns to give the enhanced tokens by itself."""

    steps: Positive = Field(default=1000, description="steps of the optimiser")
    batch_size: Positive = Field(default=64, description="samples per step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=3e-4, description="of the tower, at its highest")
    decoder_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="of projector and language model; None: learning_rate"
    )
    weight_decay: NonNegative = Field(
        default=0.01, description="of AdamW; norms, biases and embeddings of class and position get none"
    )
    betas: tuple[Fraction, Fraction] = Field(default=(0.9, 0.98), description="of AdamW")
    warmup: Annotated[int, Field(ge=0)] = Field(
        default=30, description="steps over which the learning rate rises; over the whole run it falls along a cosine"
    )
    clip_norm: Annotated[float, Field(gt=0)] = Field(default=1.0, description="largest norm of the gradient")
    feature: NonNegative = Field(default=2.0, description="weight of the distance to v', in units of the power of v'")
    language: NonNegative = Field(default=1.0, description="weight of the language loss")
    alignment: NonNegative = Field(
        default=0.5, description="weight of keeping the image embedding, and with it the text"
    )
    workers: Annotated[int, Field(ge=0)] = Field(default=2, description="threads that read the images of the next step")
    control: bool = Field(default=False, description="language loss alone: the fair comparison, no teacher")
