from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tove_core.spec import Cost, ExpertSpec, Grid, Input, Regions, Variant, Vector, Weights


def spec(**changed: Any) -> ExpertSpec:
    given: dict[str, Any] = {
        "api": 1,
        "name": "depth-any",
        "summary": "Depth.",
        "factory": "package.module:build",
        "input": Input(size=(56, 84), patch=14),
        "outputs": {"depth": Grid(channels=1, stride=14, norm="fixed", fold=4)},
    }
    return ExpertSpec(**(given | changed))


@pytest.mark.parametrize("wrong", [{"licence": "MIT"}, {"output": {}}, {"extra": None}])
def test_a_misspelt_field_is_an_error_that_names_it(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        spec(**wrong)


def test_a_misspelt_field_is_an_error_at_every_depth():
    with pytest.raises(ValidationError, match="stirde"):
        spec(outputs={"depth": {"kind": "grid", "channels": 64, "stirde": 14}})
    with pytest.raises(ValidationError, match="widht"):
        spec(input={"size": (56, 56), "widht": 3})


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        spec().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["DINO", "a_b", "-a", "a-", "a--b", "3d", "a/b", "a:b", "a.b", ""])
def test_a_name_that_could_not_be_requested_is_refused(name):
    with pytest.raises(ValidationError, match="name"):
        spec(name=name)


@pytest.mark.parametrize("factory", ["module", "module.build", "module:", ":build", "module:a.b", "os; rm:x"])
def test_a_factory_that_is_not_module_colon_function_is_refused(factory):
    with pytest.raises(ValidationError, match="factory"):
        spec(factory=factory)


@pytest.mark.parametrize("api", [0, 2, "1"])
def test_another_contract_version_is_refused(api):
    with pytest.raises(ValidationError, match="api"):
        spec(api=api)


def test_a_stride_that_does_not_divide_the_input_is_refused():
    with pytest.raises(ValidationError, match=r"outputs\.depth: stride 8 does not divide the input \(56, 84\)"):
        spec(outputs={"depth": Grid(channels=64, stride=8)})


def test_vectors_and_regions_need_no_stride():
    assert set(spec(outputs={"all": Vector(channels=5), "boxes": Regions(limit=3)}).outputs) == {"all", "boxes"}


def test_an_expert_without_outputs_is_refused():
    with pytest.raises(ValidationError, match="outputs"):
        spec(outputs={})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": (56, 55), "patch": 14}, "not a multiple of patch 14"),
        ({"size": (56, 0)}, "greater than 0"),
        ({"size": (56, 56), "std": (1.0, 0.0, 1.0)}, "not positive"),
        ({"size": (56, 56), "range": (1.0, 1.0)}, "empty"),
        ({"size": (56, 56), "interpolation": "nearest"}, "bicubic"),
    ],
)
def test_an_input_that_contradicts_itself_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Input(**given)


def test_norm_over_positions_needs_channels_to_average_over():
    assert Grid(channels=32, stride=1).norm == "position"
    with pytest.raises(ValidationError, match="erase the map"):
        Grid(channels=31, stride=1)
    assert Grid(channels=31, stride=1, norm="fixed").channels == 31


@pytest.mark.parametrize("fold", [0, 17])
def test_fold_has_bounds(fold):
    with pytest.raises(ValidationError, match="fold"):
        Grid(channels=1, stride=1, norm="fixed", fold=fold)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of repo"),
        ({"repo": "a/b", "package": "c"}, "exactly one of repo"),
        ({"repo": "a/b", "revision": "main"}, "revision"),
        ({"repo": "a/b", "revision": "A" * 40}, "revision"),
        ({"repo": "a/b", "sha256": "0" * 63}, "sha256"),
        ({"repo": "a/b", "file": "model.bin"}, "file"),
        ({"repo": "a/b", "file": "/model.safetensors"}, "file"),
    ],
)
def test_weights_name_one_safetensors_source_with_full_hashes(given, message):
    with pytest.raises(ValidationError, match=message):
        Weights(license="MIT", **given)


def test_weights_need_a_licence_in_spdx_form():
    with pytest.raises(ValidationError, match="license"):
        Weights(repo="a/b")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="not an SPDX identifier"):
        Weights(repo="a/b", license="Apache License, version 2")
    for good in ("Apache-2.0", "CC-BY-NC-4.0", "MIT OR Apache-2.0", "LicenseRef-acme"):
        assert Weights(repo="a/b", license=good).license == good


def many() -> ExpertSpec:
    return spec(
        cost=Cost(params=7),
        options={"depth": 2, "width": 64},
        variants={
            "small": Variant(options={"width": 32}, cost=Cost(params=3)),
            "wide": Variant(input=Input(size=(64, 32)), outputs={"map": Grid(channels=40, stride=16)}),
        },
        default="small",
    )


def test_a_variant_changes_what_it_names_and_merges_options():
    small = many().variant("small")
    assert small.options == {"depth": 2, "width": 32}
    assert small.cost == Cost(params=3)
    assert small.outputs == many().outputs
    assert (small.variants, small.default) == ({}, None)


def test_a_variant_replaces_input_and_outputs_as_a_whole():
    wide = many().variant("wide")
    assert wide.input == Input(size=(64, 32))
    assert wide.outputs == {"map": Grid(channels=40, stride=16)}
    assert wide.cost == Cost(params=7)


def test_no_variant_named_means_the_default_one():
    assert many().variant() == many().variant("small")
    assert spec().variant() == spec()
    with pytest.raises(KeyError):
        many().variant("huge")


def test_a_default_that_is_no_variant_is_refused():
    with pytest.raises(ValidationError, match="default 'large' is not one of the variants"):
        spec(variants={"small": Variant()}, default="large")


def test_a_variant_that_makes_no_valid_spec_is_refused_when_it_is_declared():
    with pytest.raises(ValidationError, match=r"variants\.odd.*stride 14 does not divide the input \(60, 60\)"):
        spec(variants={"odd": Variant(input=Input(size=(60, 60)))})


def test_a_spec_survives_json():
    assert ExpertSpec.model_validate_json(many().model_dump_json()) == many()


def test_regions_hold_text_or_features_and_not_both():
    assert Regions(limit=3).channels == 0
    with pytest.raises(ValidationError, match="text and 4 channels of features are both declared"):
        Regions(limit=3, channels=4, text=True)


def test_the_input_of_a_tiny_architecture_needs_one_and_fits_the_strides():
    with pytest.raises(ValidationError, match="tiny_input without tiny"):
        spec(tiny_input=Input(size=(28, 42)))
    with pytest.raises(ValidationError, match=r"stride 14 does not divide tiny_input \(28, 43\)"):
        spec(tiny={}, tiny_input=Input(size=(28, 43)))
    small = spec(tiny={"depth": 1}, tiny_input=Input(size=(28, 42)), variants={"a": Variant(options={"width": 3})})
    assert small.variant("a").tiny == {"depth": 1}
