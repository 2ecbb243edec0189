"""An expert that a process registers itself stands beside those of plugins, and is held to the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tove_core
from tove_core import BuildContext, ExpertSpec, Grid, Input, ToveModel, Variant, in_process, plugins
from tove_core.errors import CheckpointError, PluginError, UnknownExpertError
from tove_core.publishing.card import model_card
from tove_core.spec import API
from tove_core.testing import run_checks
from tove_core.training.cached import feature_fingerprints


class Pooled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"map": self.scale * nn.functional.avg_pool2d(pixels, 8)}


def build(context: BuildContext) -> nn.Module:
    return Pooled(context.options.get("scale", 1.0))


def spec(name: str = "mine", factory: Any = build, **more: Any) -> ExpertSpec:
    given = {"api": API, "name": name, "summary": "Colours.", "factory": factory, "input": Input(size=(24, 40))}
    return ExpertSpec(**given, outputs={"map": Grid(channels=3, stride=8, norm="none")}, **more)


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    in_process.REGISTERED.clear()
    plugins.registry.cache_clear()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module without a file, as a notebook's `__main__` is."""
    module = ModuleType("session_of_a_notebook")
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    source = "from torch import nn\ndef build(context):\n    return nn.Sequential()\n"
    exec(source, module.__dict__)
    return module


def forget() -> None:
    """Do what the end of a process does."""
    in_process.REGISTERED.clear()
    plugins.registry.cache_clear()


def test_it_is_listed_with_its_origin_and_computes_in_a_model(toy: Any) -> None:
    offer = tove_core.register(spec(options={"scale": 2.0}))
    listed = tove_core.experts()["mine"]
    assert listed == offer and offer.qualified == "in-process/mine"
    assert str(listed.source) == "this process (tove_core.register)"
    model = toy.build(["mine", "toy-fine"], decoder=None)
    pixels = torch.rand(2, 3, 24, 40)
    assert torch.equal(model.experts["mine"](pixels)["map"], 2 * nn.functional.avg_pool2d(pixels, 8))
    assert model.provenance.experts["mine"].reference == "in-process/mine"
    assert toy.build(["in-process/mine"], decoder=None).tokens(toy.pictures()).shape == (3, 25, 32)


def test_a_function_is_kept_as_its_path(session: ModuleType) -> None:
    assert spec().factory == f"{__name__}:build" and spec() == spec(factory=f"{__name__}:build")
    assert spec(factory=session.build).factory == "session_of_a_notebook:build"
    assert ExpertSpec.model_validate_json(spec().model_dump_json()) == spec()


def test_a_function_that_no_path_leads_to_is_refused() -> None:
    def inner(context: BuildContext) -> nn.Module:
        return Pooled(1.0)

    for factory in (inner, lambda context: Pooled(1.0), Pooled(1.0), Pooled.forward):
        with pytest.raises(ValueError, match="define it with def at the top level"):
            spec(factory=factory)


def test_registering_again_replaces_and_leaves_what_is_built_alone(toy: Any) -> None:
    tove_core.register(spec())
    first = toy.build(["mine"], decoder=None)
    wanted = first.encode(toy.pictures())["mine"]
    tove_core.register(spec())
    tove_core.register(spec(options={"scale": 3.0}))
    assert [offer.spec.name for offer in plugins.registry().offers].count("mine") == 1
    second = toy.build(["mine"], decoder=None)
    torch.testing.assert_close(second.encode(toy.pictures())["mine"], 3 * wanted)
    assert torch.equal(first.encode(toy.pictures())["mine"], wanted)


def test_it_stays_when_plugins_are_discovered_again() -> None:
    tove_core.register(spec())
    plugins.registry.cache_clear()
    assert tove_core.experts()["mine"].spec == spec()


def test_what_stands_for_a_version_is_of_what_the_spec_declares() -> None:
    versions = [
        tove_core.register(one).source.version
        for one in (spec(), spec(), spec(factory=f"{__name__}:build"), spec(options={"scale": torch.float16}))
    ]
    assert versions[0] == versions[1] == versions[2] != versions[3] and versions[0].startswith("spec-")


def stronger(text: str) -> Variant:
    return Variant(options={"scale": float(text)})


def test_variants_and_families_work_as_a_plugins() -> None:
    tove_core.register(spec("kin", family=stronger))
    assert plugins.registry().resolve("kin:4.5").spec.options == {"scale": 4.5}
    variants = {"weak": Variant(options={"scale": 0.5}), "strong": Variant(options={"scale": 5.0})}
    tove_core.register(spec(variants=variants, default="weak"))
    assert plugins.registry().resolve("mine:strong").spec.options == {"scale": 5.0}
    with pytest.raises(UnknownExpertError, match="no variant 'strng'; did you mean strong"):
        plugins.registry().resolve("in-process/mine:strng")


def test_the_name_of_an_installed_expert_is_refused_with_who_offers_it(toy: Any) -> None:
    with pytest.raises(PluginError, match=r"'toy-fine' is offered by toy-experts 1\.0 already; give the spec another"):
        tove_core.register(spec("toy-fine"))
    with pytest.raises(PluginError, match=r"'dinov2' is offered by tove-core [\d.]+ already"):
        tove_core.register(spec("dinov2"))
    assert plugins.registry().find("toy-fine").source.distribution == "toy-experts" and not in_process.REGISTERED


def test_a_plugin_installed_later_wins_and_the_registered_one_is_told_as_failed(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tove_core.register(spec())
    monkeypatch.setitem(in_process.REGISTERED, "toy-fine", in_process.Registered(spec("toy-fine")))
    plugins.registry.cache_clear()
    found = plugins.registry()
    assert found.find("toy-fine").source.distribution == "toy-experts" and found.find("mine").spec == spec()
    assert [source.entry_point for source in found.failures] == ["toy-fine"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "mine"}, "was given dict; wanted an ExpertSpec"),
        ([spec()], "was given list"),
        (spec().model_copy(update={"name": "My Expert"}), "lower-case words joined by hyphens, such as 'my-expert'"),
        (spec().model_copy(update={"api": 2}), r"ExpertSpec\.api.*this tove-core knows api 1"),
        (spec().model_copy(update={"factory": "nowhere"}), "give 'module:function'"),
    ],
)
def test_what_a_plugin_could_not_offer_cannot_be_registered(given: Any, words: str) -> None:
    with pytest.raises(PluginError, match=words) as caught:
        tove_core.register(given)
    assert "\n" not in str(caught.value) and not in_process.REGISTERED


def test_a_distribution_cannot_pass_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    source = plugins.Source("in-process", "1.0", "eye")
    point = plugins.metadata.EntryPoint("eye", __name__, "tove")
    monkeypatch.setattr(plugins, "_entry_points", lambda: [(source, point)])
    found = plugins.discover(env={})
    assert found.offers == [] and "stands for experts registered in a process" in str(found.failures[source])


@pytest.mark.parametrize("full", [False, True])
def test_a_checkpoint_loads_after_registering_again_and_says_so_before(toy: Any, tmp_path: Any, full: bool) -> None:
    tove_core.register(spec())
    model = toy.build(["mine", "toy-fine"], decoder=None)
    wanted, folder = model.tokens(toy.pictures()), model.save_pretrained(tmp_path / "ck", full=full)
    forget()
    with pytest.raises(CheckpointError, match=r"'mine' was registered in the process that saved .* run tove_core\.reg"):
        ToveModel.from_pretrained(folder)
    tove_core.register(spec())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(ToveModel.from_pretrained(folder).tokens(toy.pictures()), wanted)


def test_another_spec_than_the_one_a_checkpoint_was_saved_with_is_told(toy: Any, tmp_path: Any) -> None:
    tove_core.register(spec())
    folder = toy.build(["mine"], decoder=None).save_pretrained(tmp_path / "ck")
    tove_core.register(spec(options={"scale": 3.0}))
    with pytest.warns(UserWarning, match=r"'mine' was registered with another spec \(spec-.* than now"):
        ToveModel.from_pretrained(folder)


def test_a_spec_that_lacks_the_recorded_variant_is_refused(toy: Any, tmp_path: Any) -> None:
    variants = {"weak": Variant(options={"scale": 0.5}), "strong": Variant(options={"scale": 5.0})}
    tove_core.register(spec(variants=variants, default="weak"))
    folder = toy.build(["mine:strong"], decoder=None).save_pretrained(tmp_path / "ck")
    tove_core.register(spec())
    with pytest.raises(CheckpointError, match=r"with its spec, named 'mine' with a variant 'strong', before loading"):
        ToveModel.from_pretrained(folder)
    folder = toy.build(["mine"], decoder=None).save_pretrained(tmp_path / "plain")
    tove_core.register(spec(variants=variants, default="weak"))
    with pytest.raises(CheckpointError, match=r"has it as 'weak' only; register the spec it was saved with"):
        ToveModel.from_pretrained(folder)


def test_a_page_of_a_pushed_checkpoint_says_what_is_to_be_registered(toy: Any, tmp_path: Any) -> None:
    from tove_core.checkpoint import read_manifest

    tove_core.register(spec())
    folder = toy.build(["mine", "toy-fine"], decoder=None).save_pretrained(tmp_path / "ck")
    page = model_card("owner/name", read_manifest(folder), [])
    assert " toy-experts==1.0\n" in page and "in-process==" not in page
    assert "The experts `mine` come from no plugin" in page


def test_the_conformance_checks_run_on_it(toy: Any) -> None:
    tove_core.register(spec(cost=tove_core.Cost(params=0)))
    results = {result.check.id: result for result in run_checks("mine")}
    assert all(result.ok for result in results.values()), [r.detail for r in results.values() if not r.ok]
    assert results["light-import"].status == "not applicable" and results["contract-shapes"].status == "passed"


def test_features_on_disk_are_not_taken_for_those_of_other_code(toy: Any, session: ModuleType) -> None:
    def code(model: Any) -> object:
        return feature_fingerprints(model)[1].decides["code"]

    tove_core.register(spec())
    one, same = toy.build(["mine"], decoder=None), toy.build(["mine"], decoder=None)
    assert code(one) == code(one) == code(same)
    session.build = build  # code of a file, reached through a session that has none
    tove_core.register(spec(factory="session_of_a_notebook:build"))
    two, three = toy.build(["mine"], decoder=None), toy.build(["mine"], decoder=None)
    assert code(two) == code(two) and len({code(one), code(two), code(three)}) == 3
