from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tove_core import plugins
from tove_core.checkpoint import Manifest, read_manifest
from tove_core.errors import LicenseError
from tove_core.licenses import may_be_passed_on
from tove_core.provenance import ExpertProvenance
from tove_core.publishing.card import model_card
from tove_core.publishing.terms import (
    Part,
    base_models,
    check_passing_on,
    machine_only,
    parts_of,
    trained_inside,
)

OWN_CLIP, OWN_LM = "package:tove_core.demo/assets/clip", "package:tove_core.demo/assets/lm"


@pytest.mark.parametrize("license", ["MIT", "apache-2.0", "MIT AND CC-BY-4.0", "GPL-3.0-only OR MIT", "CC-BY-NC-4.0"])
def test_licences_that_let_weights_be_passed_on(license: str) -> None:
    assert may_be_passed_on(license)


@pytest.mark.parametrize("license", [None, "LicenseRef-x", "AGPL-3.0-only", "MIT AND LicenseRef-x", "CC-BY-ND-4.0"])
def test_licences_of_which_nothing_is_known(license: str | None) -> None:
    assert not may_be_passed_on(license)
    assert may_be_passed_on(license, ["licenseref-X", "AGPL-3.0-only", "CC-BY-ND-4.0"]) == (license is not None)


def known(name: str, license: str | None = None, sha256: str | None = None) -> ExpertProvenance:
    given = {"name": name, "distribution": "tove-core", "version": "1.0", "license": license, "sha256": sha256}
    given["variant"] = None if name == "gone" else plugins.registry().resolve(name).variant
    return ExpertProvenance(reference=f"tove-core/{name}", **given)


def manifest(
    *experts: str, clip: str = OWN_CLIP, decoder: Any = OWN_LM, weights: str = "pinned", **more: Any
) -> Manifest:
    decoder = decoder and {"name": decoder, "train": more.pop("train", "none")}
    provenance = {"tove": "1.0", "clip": {"reference": clip}, "experts": {name: known(name) for name in experts}}
    config = {"clip": {"name": clip}, "experts": list(experts), "decoder": decoder}
    origin = {"weights": weights, "own_tower": more.pop("own_tower", False)}
    return Manifest.model_validate({"format": 1, "config": config, "provenance": provenance, "origin": origin} | more)


def refused(told: Manifest, *allow: str) -> str:
    with pytest.raises(LicenseError) as caught:
        check_passing_on(told, parts_of(told), allow)
    return str(caught.value)


def passes(told: Manifest, *allow: str) -> None:
    check_passing_on(told, parts_of(told), allow)


def test_by_reference_nothing_of_others_is_passed_on() -> None:
    passes(manifest("segformer", "dinov3", clip="ViT-B-16/openai", decoder="owner/lm"))


def test_inside_what_is_not_known_to_let_it_is_refused_unless_it_is_named() -> None:
    told = manifest("dinov2", "segformer", clip="ViT-B-16/openai", decoder="owner/lm", full=True)
    lines = refused(told).splitlines()
    assert len(lines) == 3, lines
    for line, name in zip(
        lines, ("CLIP 'ViT-B-16/openai'", "expert 'segformer'", "language model 'owner/lm'"), strict=True
    ):
        assert line.startswith(f"{name} ") and "or push by reference, without --full" in line
    assert "LicenseRef-NVIDIA-SegFormer, of which tove does not know" in lines[1]
    assert refused(told, "ViT-B-16/openai", "tove-core/segformer").startswith("language model")
    passes(told, "ViT-B-16/openai", "segformer", "owner/lm")
    passes(told, "ViT-B-16/openai", "LicenseRef-NVIDIA-SegFormer", "owner/lm")


def test_gated_weights_are_refused_whatever_their_licence() -> None:
    told = manifest(full=True)
    part = Part("expert", "mine", "mine 1.0", "MIT", True, owned=True, gated=True)
    for allow in ((), ("MIT",)):
        with pytest.raises(LicenseError, match="expert 'mine' is gated"):
            check_passing_on(told, [part], allow)
    check_passing_on(told, [part], ["mine"])


def test_a_merged_model_has_no_form_without_its_weights() -> None:
    assert "without --full" not in refused(manifest(clip="ViT-B-16/openai", full=True, own_tower=True))


def test_random_weights_are_nobodys() -> None:
    passes(manifest("segformer", clip="ViT-B-16/openai", decoder="owner/lm", weights="random", full=True))


def test_of_an_expert_that_is_not_installed_what_was_recorded_holds() -> None:
    told = manifest(full=True)
    zero = "0" * 64
    for license, digest, refusal in (
        ("MIT", zero, False), ("LicenseRef-x", zero, True), ("LicenseRef-x", None, True), (None, zero, True),
    ):  # fmt: skip
        expert = known("gone", license, digest)
        provenance = told.provenance.model_copy(update={"experts": {"gone": expert}})
        changed = told.model_copy(update={"provenance": provenance})
        assert parts_of(changed)[1].commercial is None
        if refusal:
            assert refused(changed).startswith("expert 'gone'")
        else:
            passes(changed)


def test_what_only_this_machine_has_is_told(tmp_path: Path) -> None:
    (tmp_path / "lm").mkdir()
    here = {"clip": f"local-dir:{tmp_path}", "decoder": str(tmp_path / "lm"), "weights": str(tmp_path)}
    assert len(machine_only(manifest(**here))) == 3
    assert len(machine_only(manifest(clip=f"hf:{tmp_path}"))) == 1
    assert machine_only(manifest(**here, full=True)) == []
    assert machine_only(manifest(clip="hf:owner/clip", decoder="owner/lm")) == []
    assert machine_only(manifest(decoder=None, weights="random")) == []


def test_trained_language_models_of_others_are_told() -> None:
    assert trained_inside(manifest(decoder="owner/lm")) is None
    assert trained_inside(manifest(train="all")) is None
    assert "'owner/lm'" in str(trained_inside(manifest(decoder="owner/lm", train="all")))
    assert "'owner/lm'" in str(trained_inside(manifest(decoder="owner/lm", train="lora")))


def test_base_models_are_hub_ids_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert base_models(manifest(clip="ViT-B-16/openai", decoder="owner/lm")) == ["owner/lm"]
    assert base_models(manifest(clip="hf-hub:owner/clip", decoder=None)) == ["owner/clip"]
    assert base_models(manifest()) == []
    monkeypatch.chdir(tmp_path)
    Path("owner/lm").mkdir(parents=True)
    assert base_models(manifest(clip="hf:owner/clip", decoder="owner/lm")) == ["owner/clip"]


def page(told: Manifest) -> str:
    return model_card("owner/name", told, parts_of(told))


def test_the_page_tells_the_strictest_terms_first() -> None:
    strict = page(manifest("segformer", "dinov2", clip="ViT-B-16/openai", decoder="owner/lm", train="all"))
    terms = strict[strict.index("## Terms") : strict.index("## Measured")].splitlines()[2:]
    assert terms[0] == "- **No commercial use**: expert 'segformer' (LicenseRef-NVIDIA-SegFormer) does not allow it."
    assert "CLIP 'ViT-B-16/openai', language model 'owner/lm'" in terms[1]
    assert terms[2].startswith("- Weights trained from language model 'owner/lm' go along")
    assert "| expert | dinov2 | tove-core 1.0 | Apache-2.0 | allowed |" in strict
    assert "base_model:\n- owner/lm\n" in strict and "\nlicense:" not in strict
    assert "Nothing was recorded" in strict and "It was never trained." in strict
    free = page(manifest("dinov2", trained=True))
    assert "The weights of all frozen parts allow commercial use" in free and "never trained" not in free


def test_the_page_of_a_model_without_a_decoder_asks_for_tokens() -> None:
    text = page(manifest("edges", decoder=None))
    assert "pipeline_tag: image-feature-extraction" in text and 'model.tokens("photo.jpg")' in text
    assert "caption" not in text and "\n$ pip install tove-core\n" in text


def test_the_python_of_the_page_is_python() -> None:
    code = page(manifest()).split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    assert "| local-dir:/a\\|b |" in page(manifest(clip="local-dir:/a|b"))


def test_a_saved_checkpoint_says_what_its_parts_are(toy: Any, tmp_path: Path) -> None:
    told = read_manifest(toy.build(["toy-fine", "toy-wide"]).save_pretrained(tmp_path / "it"))
    assert "\n$ pip install tove-core toy-experts==1.0\n" in page(told)
    parts = {part.name: part for part in parts_of(told)}
    assert parts["toy-wide"].license == "MIT" and parts["toy-wide"].source == "toy-experts 1.0"
    assert parts["toy-wide"].owned and not parts["toy-fine"].owned
