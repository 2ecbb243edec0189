"""The embedded world as tove sees it: its models by fusion, and its splits with features computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tove_core.builder import assemble
from tove_core.config import DecoderConfig, ExpertConfig, FusionConfig, GateConfig, ModelConfig, TrainingConfig
from tove_core.data.features import Features
from tove_core.data.sample import Sample
from tove_core.demo.hooks import EXPERTS
from tove_core.demo.reader import CAPTION_PROMPT, samples
from tove_core.demo.splits import TEST, TRAIN, VALIDATION
from tove_core.model import ToveModel
from tove_core.training.examples import Examples
from tove_core.training.run import prepare

ASSETS = "package:tove_core.demo/assets"


@dataclass(frozen=True)
class Size:
    """How much of the world is used, and for how long."""

    train: int = 4000
    validation: int = 400
    test: int = 1000
    questions: int = 8
    steps: int = 1800
    batch: int = 32
    merge_steps: int = 300


FULL = Size()
"""The demo."""

SMALL = Size(train=250, validation=60, test=60, questions=6, steps=30, batch=32, merge_steps=10)
"""For tests: everything runs, nothing is learned."""


def decoder() -> DecoderConfig:
    """Return the configuration of the world's language model; all of it is trained."""
    return DecoderConfig(
        name=f"{ASSETS}/lm",
        train="all",
        prompt="{image}{prompt}",
        caption_prompt=CAPTION_PROMPT,
        projector=f"{ASSETS}/projector.safetensors",
        max_new_tokens=40,
    )


GATE = GateConfig(noise=0.3, balance=0.01, balance_warmup=50, expert_dropout=0.05)
"""The gate's settings, chosen on the validation split."""


def fusion(kind: str, parameters: int | None = None, **given: Any) -> FusionConfig:
    """Return a fusion's configuration; what is given replaces the settings chosen on the validation split."""
    return FusionConfig.model_validate({"kind": kind, "parameters": parameters, "gate": GATE} | given)


def model_config(
    kind: str, experts: Sequence[str] = EXPERTS, parameters: int | None = None, **given: Any
) -> ModelConfig:
    """Return the configuration of a world model.

    Args:
        parameters: what the fusion trains; None: as its kind has by itself.
        given: more settings of the fusion.
    """
    named = () if kind == "clip-mlp" else tuple(ExpertConfig(name=name) for name in experts)
    clip = {"name": f"{ASSETS}/clip"}
    settings = {"clip": clip, "experts": named, "fusion": fusion(kind, parameters, **given), "decoder": decoder()}
    return ModelConfig.model_validate(settings)


def training(size: Size) -> TrainingConfig:
    """Return the training settings every fusion gets; chosen on the validation split."""
    return TrainingConfig(
        steps=size.steps, batch_size=size.batch, learning_rate=5e-3, decoder_learning_rate=1.5e-3, warmup=50
    )


class Prepared:
    """Data with every expert's features computed once, shared by all models that are compared on them.

    Attributes:
        train: samples of the training split; models are calibrated on their images.
        hub: a calibrated model with all of the world's experts, untrained.
    """

    def __init__(self, train: list[Sample]) -> None:
        self.train = train
        # The list is kept beside its features: another that came after it could get the same number.
        self._tables: dict[int, tuple[list[Sample], Features | None]] = {}
        self.hub = self.build(model_config("gate"))

    def build(self, config: ModelConfig, seed: int = 0) -> ToveModel:
        """Build a calibrated model."""
        model = assemble(config, seed=seed)
        prepare(model, self.train)
        return model

    def examples(self, model: ToveModel, part: list[Sample]) -> Examples:
        """Bind samples to a model; of one and the same list the features are computed once."""
        if id(part) not in self._tables:
            self._tables[id(part)] = part, Examples.cached(self.hub, part, batch_size=256).table
        return Examples(model, part, self._tables[id(part)][1])


class World(Prepared):
    """The world's splits."""

    def __init__(self, size: Size = FULL) -> None:
        self.size = size
        self.validation = samples(VALIDATION, size.validation)
        self.test = samples(TEST, size.test)
        self.test_questions = [sample for sample in self.test if sample.prompt is not None]
        super().__init__(samples(TRAIN, size.train, questions=size.questions))

    def model(
        self, kind: str, experts: Sequence[str] = EXPERTS, parameters: int | None = None, seed: int = 0
    ) -> ToveModel:
        """Build a calibrated model of the world."""
        return self.build(model_config(kind, experts, parameters), seed)
