from __future__ import annotations

import pytest
from pydantic import ValidationError

from tove_core.config import (
    DataConfig,
    DecoderConfig,
    ExpertConfig,
    FusionConfig,
    GateConfig,
    GrowthConfig,
    MergeConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)


@pytest.mark.parametrize("kind", [ModelConfig, RunConfig, MergeConfig, GateConfig])
def test_defaults_are_complete_and_survive_json(kind):
    assert kind.model_validate_json(kind().model_dump_json()) == kind()


def test_experts_may_be_given_by_bare_name():
    config = ModelConfig.model_validate(
        {"experts": ["a", {"name": "b:small", "dtype": "bfloat16"}, ExpertConfig(name="c")]}
    )
    assert [expert.name for expert in config.experts] == ["a", "b:small", "c"]
    assert config.experts[1].dtype == "bfloat16"


def test_an_expert_requested_twice_is_refused_but_two_variants_are_not():
    with pytest.raises(ValidationError, match=r"\['a'\] are requested twice"):
        ModelConfig.model_validate({"experts": ["a", "b", "a"]})
    assert len(ModelConfig.model_validate({"experts": ["a:x", "a:y"]}).experts) == 2


def test_the_key_of_an_expert_holds_no_dots():
    assert ExpertConfig(name="timm:resnet18.a1_in1k").key == "timm:resnet18-a1_in1k"
    assert ExpertConfig(name="timm:resnet18.a1_in1k", alias="small").key == "small"
    with pytest.raises(ValidationError, match="alias"):
        ExpertConfig(name="a", alias="a.b")


def test_hidden_and_parameters_exclude_each_other():
    with pytest.raises(ValidationError, match="give one of them"):
        FusionConfig(hidden=8, parameters=1000)


def test_sigmoid_gates_refuse_what_only_a_softmax_can_have():
    with pytest.raises(ValidationError, match=r"null adds an entry to a softmax, but with activation sigmoid"):
        GateConfig(activation="sigmoid", null=True)
    with pytest.raises(ValidationError, match=r"balance 0.5 compares those in a softmax, .*; leave it out"):
        GateConfig(activation="sigmoid", balance=0.5)
    for gate in (GateConfig(activation="sigmoid"), GateConfig(activation="sigmoid", balance=0)):
        assert GateConfig.model_validate(gate.model_dump()) == gate, "a resolved configuration can be read back"


def test_a_rule_for_a_softmax_is_refused_where_there_is_none():
    for told in ({"kind": "uniform"}, {"kind": "concat"}, {"kind": "clip-mlp"}, {"gate": {"activation": "sigmoid"}}):
        with pytest.raises(ValidationError, match=r"renormalise needs a softmax, and (kind|gate).* has none; use rule"):
            FusionConfig.model_validate({"rule": "renormalise"} | told)
        assert FusionConfig.model_validate(told).rule == "zero"
    assert FusionConfig(rule="renormalise").kind == "gate"


def test_a_gate_of_its_own_is_refused_where_experts_have_no_gates():
    experts = ["a", {"name": "b", "gate": "own"}]
    for kind in ("uniform", "concat"):
        with pytest.raises(ValidationError, match=rf"experts \['b'\] ask for a gate .* kind {kind} has no gates"):
            ModelConfig.model_validate({"experts": experts, "fusion": {"kind": kind}})
    gated = ModelConfig.model_validate({"experts": experts, "fusion": {"gate": {"activation": "sigmoid"}}})
    assert gated.experts[1].gate == "own"


def test_training_layers_that_a_prefix_decoder_lacks_is_refused():
    with pytest.raises(ValidationError, match="no such layers"):
        DecoderConfig(kind="prefix", train="cross-attention")
    assert DecoderConfig(kind="cross-attention", train="cross-attention").train == "cross-attention"


@pytest.mark.parametrize("prompt", ["{image}", "{prompt} {prompt} {image}", "describe", ""])
def test_a_prompt_template_holds_each_placeholder_once(prompt):
    with pytest.raises(ValidationError, match="once each"):
        DecoderConfig(prompt=prompt)
    assert DecoderConfig(prompt="{image} Q: {prompt}").prompt.startswith("{image}")


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (GateConfig, {"temperature": 0}),
        (GateConfig, {"noise": -0.1}),
        (GateConfig, {"expert_dropout": 1.5}),
        (FusionConfig, {"residual": 0}),
        (FusionConfig, {"rule": "renormalize"}),
        (FusionConfig, {"kind": "gates"}),
        (TrainingConfig, {"steps": 0}),
        (TrainingConfig, {"learning_rate": -1e-3}),
        (TrainingConfig, {"precision": "fp16"}),
        (ModelConfig, {"view": "stretch"}),
    ],
)
def test_a_value_outside_its_range_is_refused(kind, given):
    with pytest.raises(ValidationError, match=next(iter(given))):
        kind(**given)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().seed = 1  # type: ignore[misc]


TABLE = {"reader": "csv", "path": "all.csv", "images": "photos", "limit": 9, "options": {"separator": "|"}}


def test_validation_data_that_name_no_data_set_are_another_split_of_the_training_data():
    data = {"reader": "karpathy", "path": "coco.json", "images": "photos", "limit": 9, "options": {"restval": False}}
    validation = {"split": "val", "limit": 3}
    config = RunConfig.model_validate({"data": data, "validation": validation})
    assert config.validation == DataConfig.model_validate(data | validation)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert RunConfig(data=config.data, validation=DataConfig(split="val", limit=3)) == config
    whole = RunConfig.model_validate({"data": data, "validation": {"split": "val"}}).validation
    assert whole is not None and whole.limit is None


@pytest.mark.parametrize("validation", [{"limit": 3}, {}, {"split": "train"}, {"split": "train", "limit": 3}])
def test_validation_data_that_would_be_the_training_data_are_refused(validation):
    with pytest.raises(
        ValidationError, match=r"no reader or path, and .* it would be the training data; give its path"
    ):
        RunConfig.model_validate({"data": TABLE, "validation": validation})


def test_validation_data_beside_a_mixture_name_a_data_set():
    mixture = {"mixture": [{"path": "a.jsonl"}, {"path": "b.jsonl", "name": "b"}]}
    with pytest.raises(ValidationError, match="no reader or path"):
        RunConfig.model_validate({"data": mixture, "validation": {"split": "test"}})
    config = RunConfig.model_validate({"data": mixture, "validation": {"path": "c.jsonl"}})
    assert config.validation == DataConfig.model_validate({"path": "c.jsonl"})


@pytest.mark.parametrize("validation", [{"reader": "jsonl"}, {"path": "b.jsonl"}, {"reader": "world", "limit": 3}])
def test_validation_data_that_name_a_data_set_stand_for_themselves(validation):
    config = RunConfig.model_validate({"data": TABLE, "validation": validation})
    assert config.validation == DataConfig.model_validate(validation)


def test_measuring_while_training_needs_validation_data_and_a_whole_model():
    training = {"validate_every": 5}
    with pytest.raises(ValidationError, match="validate_every measures on validation data, and there are none"):
        RunConfig.model_validate({"training": training})
    config = RunConfig.model_validate({"training": training, "validation": {"path": "b.jsonl"}})
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValidationError, match="shard full divides it"):
        TrainingConfig(shard="full", validate_every=5)


def test_an_expert_that_joins_twice_is_refused():
    with pytest.raises(ValidationError, match=r"\['a'\] are requested twice"):
        GrowthConfig.model_validate({"source": "run", "experts": ["a", "a"]})


def test_validation_data_that_name_a_file_of_the_same_kind_are_read_by_the_same_reader():
    config = RunConfig.model_validate({"data": TABLE, "validation": {"path": "b.csv", "limit": 3}})
    assert config.validation == DataConfig.model_validate(
        {"reader": "csv", "path": "b.csv", "limit": 3, "options": TABLE["options"]}
    )
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
