from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tove_core import LicensePolicy, licenses, plugins
from tove_core.config import ModelConfig, RunConfig
from tove_core.errors import ConfigError, LicenseError
from tove_core.licenses import Terms, check_licenses, combined, shown
from tove_core.settings import read_config, write_config
from tove_core.spec import ExpertSpec, Grid, Input, Variant, Weights


def expert(name: str, license: str = "MIT", commercial: bool | None = True, **more: Any) -> plugins.Offer:
    weights = Weights(repo="a/b", license=license, commercial=commercial, license_url=more.pop("url", None))
    spec = ExpertSpec(
        api=1,
        name=name,
        summary="An expert.",
        factory="nowhere:build",
        input=Input(size=(8, 8)),
        outputs={"map": Grid(channels=2, stride=2, norm="none")},
        weights=weights,
        **more,
    )
    return plugins.Offer(spec, plugins.Source("dist-a", "1", "e"))


OFFERS = [
    expert("free"),
    expert("paid", "CC-BY-NC-4.0", False, url="https://example.org/terms"),
    expert("murky", "LicenseRef-own", None),
    expert("both", "MIT AND GPL-3.0-only WITH GCC-exception-3.1"),
    expert("either", "MIT OR GPL-3.0-only"),
    expert(
        "sized",
        variants={"s": Variant(), "l": Variant(weights=Weights(repo="a/c", license="CC-BY-NC-4.0", commercial=False))},
        default="s",
    ),
    plugins.Offer(expert("bare").spec.model_copy(update={"weights": None}), plugins.Source("dist-a", "1", "e")),
]


OWN_CLIP, OWN_LM = "package:tove_core.demo/assets/clip", "package:tove_core.demo/assets/lm"


def check(policy: LicensePolicy | None, *names: str, clip: str = "X/y", decoder: str | None = None) -> list[str]:
    registry = plugins.Registry(offers=OFFERS)
    config = ModelConfig(experts=names, decoder=decoder and {"name": decoder}, clip={"name": clip}, licenses=policy)
    return check_licenses(config, {name: registry.resolve(name) for name in names})


def refused(policy: LicensePolicy, *names: str, **more: Any) -> str:
    with pytest.raises(LicenseError) as caught:
        check(policy, *names, **more)
    return str(caught.value)


def test_without_a_policy_everything_passes_in_silence() -> None:
    assert check(None, "free", "paid", "murky") == []
    assert check(LicensePolicy(), "paid", "murky", decoder="d") == []


def test_commercial_refuses_what_forbids_it_and_what_is_unknown_by_name_and_licence() -> None:
    policy = LicensePolicy(commercial=True)
    assert len(check(policy, "free", "bare")) == 1
    text = refused(policy, "free", "paid", "murky")
    paid, murky = text.splitlines()
    assert "'paid'" in paid and "CC-BY-NC-4.0 (https://example.org/terms)" in paid and "'free'" not in text
    assert "'murky'" in murky and "not known" in murky and "licenses.allow=[murky]" in murky


def test_the_variant_decides() -> None:
    policy = LicensePolicy(commercial=True)
    assert check(policy, "sized") and check(policy, "sized:s")
    assert "'sized:l'" in refused(policy, "sized:l")


@pytest.mark.parametrize("name", ["sized", "sized:l", "dist-a/sized", "dist-a/sized:l", "CC-BY-NC-4.0", "cc-by-nc-4.0"])
def test_allowing_by_each_form_of_a_name_or_by_licence_admits(name: str) -> None:
    check(LicensePolicy(commercial=True, allow=(name,)), "sized:l")
    check(LicensePolicy(commercial=True, allow=(name,)), "dist-a/sized:l")


def test_allowing_another_variant_admits_nothing() -> None:
    assert "'sized:l'" in refused(LicensePolicy(commercial=True, allow=("sized:s", "MIT", "size")), "sized:l")


def test_every_file_of_an_expert_counts() -> None:
    reader = Weights(repo="a/d", license="CC-BY-NC-4.0", commercial=False)
    two = Weights(repo="a/c", license="MIT", commercial=True, more={"reader": reader})
    assert combined(two) == ("MIT AND CC-BY-NC-4.0", False) and combined(None) == (None, None)
    assert shown(two) == combined(two) and shown(None) == ("none needed", True)
    unknown = two.model_copy(update={"more": {"reader": reader.model_copy(update={"commercial": None})}})
    assert combined(unknown)[1] is None and combined(reader) == ("CC-BY-NC-4.0", False)
    offer = OFFERS[0].spec.model_copy(update={"weights": two})
    found = plugins.Resolved(plugins.Offer(offer, OFFERS[0].source), None, offer)

    def ask(policy: LicensePolicy) -> None:
        check_licenses(ModelConfig(licenses=policy), {"free": found})

    for policy in (LicensePolicy(commercial=True), LicensePolicy(commercial=True, allow=("MIT",)),
                   LicensePolicy(deny=("CC-BY-NC-4.0",))):  # fmt: skip
        with pytest.raises(LicenseError, match=r"CC-BY-NC-4\.0"):
            ask(policy)
    ask(LicensePolicy(commercial=True, allow=("CC-BY-NC-4.0",)))
    ask(LicensePolicy(commercial=True, allow=("free",)))


def test_denying_wins_over_allowing_and_needs_no_other_rule() -> None:
    assert "licenses.deny names" in refused(LicensePolicy(allow=("free",), deny=("mit",)), "free")
    assert "denied by name (free)" in refused(LicensePolicy(deny=("free",)), "free")
    assert "denied by name" in refused(LicensePolicy(deny=("bare",)), "bare")


def test_compound_licences_are_read_as_spdx_means_them() -> None:
    assert "'both'" in refused(LicensePolicy(deny=("GPL-3.0-only",)), "both")
    assert check(LicensePolicy(deny=("GPL-3.0-only",)), "either") == []
    assert "'either'" in refused(LicensePolicy(deny=("GPL-3.0-only", "MIT")), "either")


def test_clip_and_language_model_are_named_as_unchecked_and_refused_when_strict() -> None:
    unchecked = check(LicensePolicy(commercial=True), "free", decoder="some/decoder")
    assert len(unchecked) == 2 and "'X/y'" in unchecked[0] and "'some/decoder'" in unchecked[1]
    strict = LicensePolicy.named("strict")
    assert len(refused(strict, "free", decoder="some/decoder").splitlines()) == 2
    assert check(strict.model_copy(update={"allow": ("X/y", "some/decoder")}), "free", decoder="some/decoder") == []
    assert "language model 'd'" in refused(LicensePolicy(deny=("d",)), decoder="d")


def test_the_licence_of_toves_own_clip_and_language_model_is_known() -> None:
    for word in ("commercial", "strict"):
        assert check(LicensePolicy.named(word), "free", clip=OWN_CLIP, decoder=OWN_LM) == []
    for other in (
        "package:tove_core_else.demo/clip",
        "tove_core.demo/assets/clip",
        "package:other.tove_core.demo/clip",
    ):
        assert other in refused(LicensePolicy.named("strict"), clip=other, decoder=OWN_LM)
    for entry, how in ((OWN_LM, "denied by name"), ("apache-2.0", "denied, for it is Apache-2.0")):
        assert how in refused(LicensePolicy(deny=(entry,)), clip="X/y", decoder=OWN_LM)


def test_a_known_licence_that_forbids_commercial_use_is_held_to_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(licenses._TERMS, "some/", Terms("CC-BY-NC-4.0", commercial=False))
    assert "'some/clip' is CC-BY-NC-4.0, which does not" in refused(LicensePolicy(commercial=True), clip="some/clip")
    assert check(LicensePolicy(strict=True), clip="some/clip") == []
    assert check(LicensePolicy(commercial=True, allow=("CC-BY-NC-4.0",)), clip="some/clip") == []


def test_what_is_known_of_a_model_is_known_of_its_copy_in_a_complete_checkpoint(tmp_path: Path) -> None:
    import tove_core
    from tove_core.checkpoint import load

    model = tove_core.build(["world-blank"], clip=OWN_CLIP, decoder=OWN_LM, licenses="strict")
    folder = model.save_pretrained(tmp_path / "full", full=True)
    assert load(folder).config.licenses == LicensePolicy.named("strict")
    manifest = json.loads((folder / "tove.json").read_text())
    manifest["config"]["licenses"]["deny"] = ["Apache-2.0"]
    (folder / "tove.json").write_text(json.dumps(manifest))
    with pytest.raises(LicenseError, match=r"CLIP .*denied"):
        load(folder)


def test_policies_have_names_and_unknown_ones_are_an_error(tmp_path: Path) -> None:
    assert ModelConfig(licenses="commercial").licenses == LicensePolicy(commercial=True)  # type: ignore[arg-type]
    (tmp_path / "run.yaml").write_text("model:\n  licenses: comercial\n")
    with pytest.raises(ConfigError, match=r"model\.licenses: .*'comercial'; choose commercial or strict"):
        read_config(RunConfig, tmp_path / "run.yaml")
    run = read_config(RunConfig, None, ["model.licenses.allow=[free, MIT]"])
    write_config(run, tmp_path / "run.yaml")
    assert read_config(RunConfig, tmp_path / "run.yaml").model.licenses == LicensePolicy(allow=("free", "MIT"))


def test_building_refuses_before_anything_is_loaded(toy: Any) -> None:
    nowhere = {"clip": "local-dir:no-such-folder", "decoder": "no-such-folder", "experts": ["toy-wide"]}
    with pytest.raises(LicenseError, match="toy-wide"):
        toy.build(**nowhere, licenses="commercial")
    with pytest.raises(ConfigError, match="no-such-folder"):  # the same without a policy gets as far as loading
        toy.build(**nowhere)


@pytest.mark.filterwarnings("error")
def test_a_model_keeps_its_policy_and_a_checkpoint_is_held_to_it(toy: Any, tmp_path: Path) -> None:
    from tove_core import ToveModel
    from tove_core.checkpoint import load

    allowed = LicensePolicy(commercial=True, strict=True, allow=("toy-wide", toy.clip))
    model = toy.build(["toy-wide"], decoder=None, licenses=allowed)
    assert model.config.licenses == allowed
    folder = model.save_pretrained(tmp_path / "checkpoint")
    assert ToveModel.from_pretrained(folder).config.licenses == allowed
    full = model.save_pretrained(tmp_path / "full", full=True)
    assert ToveModel.from_pretrained(full).config.licenses == allowed
    manifest = json.loads((folder / "tove.json").read_text())
    manifest["config"]["licenses"]["deny"] = ["toy-wide"]
    (folder / "tove.json").write_text(json.dumps(manifest))
    with pytest.raises(LicenseError, match="denied by name"):
        load(folder)


def test_parts_that_could_not_be_checked_are_named_when_building(toy: Any) -> None:
    with pytest.warns(UserWarning, match="did not check") as caught:
        toy.build(["toy-wide"], licenses={"commercial": True, "allow": ["toy-wide"]})
    assert len(caught) == 2
