"""The one configuration tree: what a model is made of and how a run trains it. No torch.

Files are YAML; `--set a.b=v` changes one key; a key that does not exist is an error that names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tove_core.config_data import DataConfig, PartConfig, SourceConfig
from tove_core.config_training import MergeConfig, TrainingConfig
from tove_core.licenses import LicensePolicy
from tove_core.spec import Fraction, Frozen, NonNegative, Positive
from tove_core.stages import STAGES, filled

__all__ = [
    "ClipConfig",
    "DataConfig",
    "DecoderConfig",
    "Dtype",
    "ExpertConfig",
    "FusionConfig",
    "GateConfig",
    "GrowthConfig",
    "LoraConfig",
    "MergeConfig",
    "ModelConfig",
    "PartConfig",
    "Rule",
    "RunConfig",
    "SourceConfig",
    "TrainingConfig",
]

LARGEST_SEED = 2**32 - 1
"""What torch and numpy both take."""
Dtype = Literal["float32", "bfloat16", "float16"]
Rule = Literal["zero", "renormalise"]
"""How an expert is switched off. zero: its term goes and the softmax still counts it; renormalise: its row goes too."""


class ClipConfig(Frozen):
    """The frozen CLIP whose tokens are enhanced."""

    section: ClassVar[str] = "clip"

    name: str = Field(
        default="ViT-B-16/openai",
        description="open_clip 'MODEL/TAG', 'local-dir:FOLDER', 'hf-hub:OWNER/NAME'; transformers 'hf:OWNER/NAME' or "
        "'hf:FOLDER'; 'package:MODULE/FOLDER' for files inside an installed package",
    )
    layer: int = Field(default=-2, description="block whose output gives the tokens; -1 is the last, no final norm")
    image_size: Positive | None = Field(default=None, description="side in pixels; None: as the model was trained")
    dtype: Dtype = Field(default="float32", description="precision CLIP computes in")


class ExpertConfig(Frozen):
    """One requested expert: `name`, `name:variant` or `distribution/name[:variant]`."""

    section: ClassVar[str] = "experts"

    name: str = Field(description="as 'tove experts list' shows it; with ':variant', or 'distribution/' in front")
    alias: Annotated[str, Field(pattern=r"^[^.]+$")] | None = Field(
        default=None, description="the name under which the model knows it; None: `name`, with '-' for each '.'"
    )
    dtype: Dtype = Field(default="float32", description="precision the expert computes in")
    device: str | None = Field(default=None, description="where the expert runs; None: where CLIP does")
    offload: bool = Field(
        default=False, description="keep its weights in main memory and bring them to the device only while it runs"
    )
    stream: bool = Field(default=False, description="run on a CUDA stream of its own, beside CLIP and other experts")
    micro_batch: Positive | Literal["auto"] | None = Field(
        default=None,
        description="images it takes at a time; auto: as many as measured GPU memory allows; None: the whole batch",
    )
    compile: bool | str = Field(
        default=False, description="run it through torch.compile; a text names another backend than inductor"
    )
    gate: Literal["shared", "own"] = Field(
        default="shared",
        description="for fusion.kind gate: shared: one softmax with the others; own: a sigmoid of its own that leaves "
        "the others' weights alone, as an expert gets that joins a trained hub",
    )

    @property
    def key(self) -> str:
        """The name under which the model knows the expert. Names of modules hold no dots."""
        return self.alias or self.name.replace(".", "-")


class GateConfig(Frozen):
    """The token-aware gate (ToVE, section on the gating network)."""

    activation: Literal["softmax", "sigmoid"] = Field(
        default="softmax", description="softmax: experts compete; sigmoid: each for itself"
    )
    hidden: Positive = Field(default=32, description="width of the gate's own hidden layer")
    temperature: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="divides the logits; above 1 evens the gates out"
    )
    temperature_start: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="temperature at the start of training, from where it goes to `temperature`; None: same",
    )
    null: bool = Field(
        default=False, description="one more entry in the softmax that stands for no expert; not with sigmoid"
    )
    noise: NonNegative = Field(default=0.3, description="standard deviation added to the logits in training")
    balance: NonNegative = Field(
        default=0.01,
        description="weight of the importance loss (squared CV of gate mass) over the experts that share the softmax; "
        "with sigmoid there is none",
    )
    balance_warmup: Annotated[int, Field(ge=0)] = Field(default=50, description="steps before that loss counts")
    expert_dropout: Fraction = Field(default=0.1, description="chance that a sample trains without a given expert")

    @model_validator(mode="after")
    def _competing(self) -> Self:
        if self.activation == "sigmoid":
            # The default is no wish: it stands in every resolved configuration, which is read back.
            balanced = self.balance not in (0, type(self).model_fields["balance"].default)
            told = "null adds an entry to" if self.null else f"balance {self.balance:g} compares those in" * balanced
            if told:
                raise ValueError(
                    f"{told} a softmax, but with activation sigmoid each expert is for itself; leave it out, or set "
                    "activation softmax"
                )
        return self


class FusionConfig(Frozen):
    """How expert knowledge enters the tokens."""

    section: ClassVar[str] = "fusion"

    kind: Literal["gate", "uniform", "concat", "clip-mlp"] = Field(
        default="gate", description="gate: weights per token; uniform: every weight 1; concat and clip-mlp: baselines"
    )
    hidden: Positive | None = Field(default=None, description="width H of the projector; None: CLIP's width")
    init: Literal["rms", "zero"] = Field(
        default="rms", description="rms: the residual starts at `residual` of the rms of v; zero: it starts at nothing"
    )
    residual: Annotated[float, Field(gt=0)] = Field(
        default=0.5, description="rms of the residual in units of the rms of v, at the start"
    )
    rule: Rule = Field(
        default="zero", description="how an expert is switched off: zero or, where there is a softmax, renormalise"
    )
    replace: bool = Field(
        default=False,
        description="v' is what the experts give, without v: an ablation. It starts at the rms of v; `residual` does "
        "not count",
    )
    gate: GateConfig = Field(default=GateConfig(), description="the gate, for kind gate")
    parameters: Positive | None = Field(
        default=None, description="choose `hidden` so that the fusion trains about this many parameters"
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.hidden is not None and self.parameters is not None:
            raise ValueError("hidden and parameters both fix the projector's width; give one of them")
        if self.replace and (self.kind == "clip-mlp" or self.init == "zero"):
            told = (
                "kind clip-mlp, which has no experts" if self.kind == "clip-mlp" else "init zero, which leaves nothing"
            )
            raise ValueError(f"replace puts what experts give in place of v, but it stands beside {told}; drop one")
        return self

    @model_validator(mode="after")
    def _rule_of_a_softmax(self) -> Self:
        if self.rule == "renormalise" and (self.kind != "gate" or self.gate.activation != "softmax"):
            told = f"kind {self.kind}" if self.kind != "gate" else f"gate.activation {self.gate.activation}"
            raise ValueError(f"rule renormalise needs a softmax, and {told} has none; use rule zero")
        return self


class LoraConfig(Frozen):
    """Low-rank adapters in the language model, for `decoder.train: lora`; peft, an extra, makes them."""

    rank: Positive = Field(default=8, description="rank of each adapter")
    alpha: Annotated[float, Field(gt=0)] = Field(default=16, description="adapters are scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="dropout in front of each adapter")
    targets: tuple[str, ...] | Literal["all-linear"] = Field(
        default="all-linear", description="names of the linear layers that get one, such as q_proj; all-linear: all"
    )


class DecoderConfig(Frozen):
    """The language model and how it is conditioned on the tokens."""

    section: ClassVar[str] = "decoder"

    name: str = Field(
        default="HuggingFaceTB/SmolLM2-135M",
        description="causal language model: hub id, folder or 'package:MODULE/FOLDER'; safetensors only",
    )
    kind: Literal["prefix", "cross-attention"] = Field(
        default="prefix",
        description="prefix: the image stands before the text; cross-attention: the text attends to it",
    )
    train: Literal["none", "cross-attention", "lora", "all"] = Field(
        default="none", description="what of the language model is trained beside the projector"
    )
    lora: LoraConfig = Field(default=LoraConfig(), description="the adapters, for train lora")
    quantize: Literal["8bit", "4bit"] | None = Field(
        default=None,
        description="hold the frozen language model in so many bits (bitsandbytes, an extra; on CUDA and the CPU)",
    )
    prompt: str = Field(
        default="auto",
        description="'auto': the tokenizer's chat template if it has one, else '{image}\\n{prompt}'; or a template "
        "with {image} and {prompt}",
    )
    caption_prompt: str = Field(default="Describe the image.", description="what is asked where a sample asks nothing")
    max_new_tokens: Positive = Field(default=32, description="length of an answer at most")
    projector: str | None = Field(
        default=None,
        description="safetensors file to start the projector from: a path, or 'package:MODULE/FILE'; None: random",
    )
    dtype: Dtype = Field(
        default="float32",
        description="precision of the language model; `train: all` and `cross-attention` need float32. The projector "
        "and LoRA adapters are always float32",
    )

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
        if self.quantize is not None and self.train not in ("none", "lora"):
            raise ValueError(f"quantize {self.quantize!r} holds weights that cannot be trained; use train none or lora")
        return self


def _named(value: Any) -> Any:
    """Let an expert be given by its name alone."""
    if isinstance(value, (list, tuple)):
        return tuple({"name": item} if isinstance(item, str) else item for item in value)
    return value


def _each_once(experts: tuple[ExpertConfig, ...]) -> tuple[ExpertConfig, ...]:
    keys = [expert.key for expert in experts]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"experts {twice} are requested twice; give one of two that differ an alias")
    return experts


class ModelConfig(Frozen):
    """Everything `tove_core.build` needs."""

    clip: ClipConfig = Field(default=ClipConfig(), description="the CLIP")
    experts: tuple[ExpertConfig, ...] = Field(
        default=(), description="the experts, by name or with settings of their own"
    )
    fusion: FusionConfig = Field(default=FusionConfig(), description="how expert knowledge enters the tokens")
    decoder: DecoderConfig | None = Field(default=DecoderConfig(), description="the language model; None: tokens alone")
    view: Literal["squash", "crop", "pad"] = Field(default="squash", description="region of the image that is seen")
    licenses: LicensePolicy | None = Field(
        default=None, description="which weights may be used, also 'commercial' or 'strict'; none: all"
    )

    @field_validator("licenses", mode="before")
    @classmethod
    def _policy(cls, value: Any) -> Any:
        return LicensePolicy.named(value) if isinstance(value, str) else value

    @field_validator("experts", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _named(value)

    @field_validator("experts")
    @classmethod
    def _distinct(cls, value: tuple[ExpertConfig, ...]) -> tuple[ExpertConfig, ...]:
        return _each_once(value)

    @model_validator(mode="after")
    def _gates_of_their_own(self) -> Self:
        if self.fusion.kind != "gate" and (apart := [one.key for one in self.experts if one.gate == "own"]):
            raise ValueError(
                f"experts {apart} ask for a gate of their own, and fusion kind {self.fusion.kind} has no gates; leave "
                "it out, or set fusion.kind gate"
            )
        return self


class GrowthConfig(Frozen):
    """Experts that join a trained hub: their projectors and gate rows are trained, everything else stays."""

    source: Path = Field(description="run or checkpoint of the hub; `model` of this file is not read")
    experts: Annotated[tuple[ExpertConfig, ...], Field(min_length=1)] = Field(
        description="who joins, by name or with settings of their own"
    )

    @field_validator("experts", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _named(value)

    @field_validator("experts")
    @classmethod
    def _distinct(cls, value: tuple[ExpertConfig, ...]) -> tuple[ExpertConfig, ...]:
        return _each_once(value)


def _reader_of(given: dict[str, Any], data: DataConfig) -> dict[str, Any]:
    """Return the reader, with what it was told, of training data whose file ends alike; nothing where it does not."""
    path = given.get("path")
    if data.path is None or not isinstance(path, str | Path) or Path(path).suffix != data.path.suffix:
        return {}
    return {key: getattr(data, key) for key in data.model_fields_set & {"reader", "options", "tiles"} - given.keys()}


class RunConfig(Frozen):
    """A whole training run."""

    model: ModelConfig = Field(default=ModelConfig(), description="what is trained")
    data: DataConfig = Field(default=DataConfig(), description="what it is trained on")
    validation: DataConfig | None = Field(
        default=None,
        description="held-out data: for tove evaluate, contributions and select, for `training.validate_every`, and "
        "for the gain of `--add`. None: contributions and select take the training data, evaluate the test split. If "
        "it names neither reader, path nor mixture, it needs a split of its own, and takes every other key but `limit` "
        "from `data`; a path with the same ending as that of `data` is read by the same reader",
    )
    training: TrainingConfig = Field(default=TrainingConfig(), description="for how long, and how")
    growth: GrowthConfig | None = Field(
        default=None, description="experts that join a trained hub; None: `model` is built and trained"
    )
    start: Path | str | None = Field(
        default=None,
        description="run, checkpoint or hub id (owner/name, owner/name@revision) whose trained tensors this run starts "
        "from; None: afresh",
    )
    output: Path = Field(default=Path("runs/tove"), description="folder of the run; it must not hold a run already")
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = Field(
        default=0, description="of everything random: parameters, batches, noise, dropped experts"
    )

    @field_validator("validation", mode="before")
    @classmethod
    def _of_data(cls, value: Any, info: ValidationInfo) -> Any:
        given = value.model_dump(exclude_unset=True) if isinstance(value, DataConfig) else value
        data: DataConfig | None = info.data.get("data")  # not there where it is wrong itself
        if data is None or not isinstance(given, dict) or given.keys() & {"reader", "mixture"}:
            return value
        if "path" in given:
            return given | _reader_of(given, data)
        if given.keys() - DataConfig.model_fields.keys():
            return value  # a misspelt key is told as such
        if data.mixture or given.get("split", data.split) == data.split:
            raise ValueError(
                f"it says {', '.join(given) or 'nothing'} but no reader or path, and with no split of its own it would "
                "be the training data; give its path, or its split where the data set has parts"
            )
        return {key: getattr(data, key) for key in data.model_fields_set - {"limit"}} | given

    @model_validator(mode="before")
    @classmethod
    def _stage(cls, value: Any) -> Any:
        training = value.get("training") if isinstance(value, dict) else None
        stage = training.get("stage") if isinstance(training, dict) else None
        recipe = STAGES.get(stage) if isinstance(stage, str) else None
        return filled(value, recipe) if recipe else value

    @model_validator(mode="after")
    def _measurable(self) -> Self:
        if self.training.validate_every is not None and self.validation is None:
            raise ValueError("training.validate_every measures on validation data, and there are none; name some")
        return self
