"""A checkpoint's experts are found by who offered them, whatever else is installed now."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core import ToveModel, checkpoint, plugins
from tove_core.errors import AmbiguousExpertError, CheckpointError
from tove_core.training.cached import feature_fingerprints

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")
MODULE = """
from torch import nn
from tove_core.hookspecs import hookimpl
from tove_core.spec import ExpertSpec, Grid, Input, Variant

class Scaled(nn.Module):
    def forward(self, pixels):
        return {{"map": {scale} * nn.functional.avg_pool2d(pixels, 8)}}

def build(ctx):
    return Scaled()

@hookimpl
def tove_experts():
    return [ExpertSpec(
        api=1, name={name!r}, summary="Colours.", factory=__name__ + ":build", input=Input(size=(24, 40)),
        outputs={{"map": Grid(channels=3, stride=8, norm="none")}}, {more}
    )]
"""
TWO = "variants={{'small': Variant(), 'large': Variant()}}, default={!r}"
Install = Callable[..., Path]
_serial = itertools.count()


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Install a distribution that offers an expert, in place of an older version of itself."""
    places: dict[str, pytest.MonkeyPatch] = {}

    def write(
        distribution: str, *, version: str = "0.1.0", name: str = "eye", scale: float = 1.0, more: str = ""
    ) -> None:
        remove(distribution)
        module = f"recalled_{next(_serial)}"  # Python imports a name once per process
        site = tmp_path / module
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[tove]\neye = {module}\n")
        (site / f"{module}.py").write_text(MODULE.format(scale=scale, name=name, more=more))
        places[distribution] = pytest.MonkeyPatch()
        places[distribution].syspath_prepend(str(site))
        plugins.registry.cache_clear()

    def remove(distribution: str) -> None:
        if distribution in places:
            places.pop(distribution).undo()
        plugins.registry.cache_clear()

    write.remove = remove  # type: ignore[attr-defined]
    yield write  # type: ignore[misc]
    for distribution in list(places)[::-1]:
        remove(distribution)


def answers(model: Any, toy: Any) -> torch.Tensor:
    return model.tokens(toy.pictures())


def quietly(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ToveModel.from_pretrained(folder)


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        ToveModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("full", [False, True])
def test_the_same_name_of_another_distribution_is_refused(toy, install, tmp_path, full):
    install("first-eye")
    folder = toy.build(["eye"], decoder=None).save_pretrained(tmp_path / "ck", full=full)
    install.remove("first-eye")
    install("second-eye", version="3.2", scale=5.0)
    said = refused(folder)
    assert "expert 'eye' was recorded as first-eye/eye 0.1.0, which is not installed" in said
    assert "there is second-eye/eye 3.2, another one" in said
    assert "install first-eye==0.1.0" in said


def test_a_second_distribution_of_the_name_does_not_lock_a_checkpoint_out(toy, install, tmp_path):
    install("first-eye")
    model = toy.build(["eye"], decoder=None)
    folder = model.save_pretrained(tmp_path / "ck")
    wanted = answers(model, toy)
    install("second-eye", scale=5.0)
    with pytest.raises(AmbiguousExpertError):
        toy.build(["eye"], decoder=None)
    assert torch.equal(answers(quietly(folder), toy), wanted)


def test_another_version_of_the_plugin_is_told_once_and_loads(toy, install, tmp_path):
    install("first-eye")
    folder = toy.build(["eye", "toy-fine"], decoder=None).save_pretrained(tmp_path / "ck")
    install("first-eye", version="0.2.0")
    with pytest.warns(UserWarning, match=r"'eye' was recorded with first-eye 0\.1\.0, and 0\.2\.0 is") as told:
        model = ToveModel.from_pretrained(folder)
    assert [warning.filename for warning in told] == [__file__]
    assert "install first-eye==0.1.0" in str(told[0].message)
    assert model.provenance.experts["eye"].version == "0.1.0"  # what it was trained with stays on record
    (_, eye, _) = feature_fingerprints(model)
    assert eye.decides["version"] == "0.2.0"  # and what computes features is what is installed


def test_a_checkpoint_of_an_older_tove_core_loads_without_a_word(toy, tmp_path):
    folder = toy.build(["edges"], decoder=None).save_pretrained(tmp_path / "ck")
    manifest = json.loads((folder / "tove.json").read_text())
    known = manifest["provenance"]["experts"]["edges"]
    assert known["distribution"] == plugins.OWN
    known["version"] = manifest["provenance"]["tove"] = "0.0.1"
    (folder / "tove.json").write_text(json.dumps(manifest))
    quietly(folder)


def test_the_recorded_variant_is_taken_where_another_is_the_default_now(toy, install, tmp_path):
    install("first-eye", more=TWO.format("small"))
    folder = toy.build(["eye"], decoder=None).save_pretrained(tmp_path / "ck")
    install("first-eye", more=TWO.format("large"))
    assert quietly(folder).provenance.experts["eye"].variant == "small"
    install("first-eye", more="variants={'large': Variant()}, default='large'")
    said = refused(folder)
    assert "recorded as first-eye/eye:small 0.1.0, which is not installed (first-eye 0.1.0 has no such variant" in said


def test_an_expert_that_had_no_variants_is_not_taken_for_one(toy, install, tmp_path):
    install("first-eye")
    folder = toy.build(["eye"], decoder=None).save_pretrained(tmp_path / "ck")
    install("first-eye", version="0.2.0", more=TWO.format("small"))
    assert "without a variant, and first-eye 0.2.0 has it as 'small' only; install first-eye==0.1.0" in refused(folder)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"name": "ear"}, "first-eye 0.1.0 does not offer it"),
        ({"more": "no_such_field=1"}, "first-eye 0.1.0 failed to load, PluginError"),
        (None, "no installed plugin offers a 'eye'"),
    ],
)
def test_why_the_recorded_expert_is_not_there_is_said(toy, install, tmp_path, now, said):
    install("first-eye")
    folder = toy.build(["eye"], decoder=None).save_pretrained(tmp_path / "ck")
    install.remove("first-eye")
    if now is not None:
        install("first-eye", **now)
    assert said in refused(folder)


def test_a_blocked_distribution_is_named(toy, install, tmp_path, monkeypatch):
    install("first-eye")
    folder = toy.build(["eye"], decoder=None).save_pretrained(tmp_path / "ck")
    monkeypatch.setenv("TOVE_BLOCK", "first-eye")
    plugins.registry.cache_clear()
    assert "first-eye 0.1.0 is blocked by TOVE_BLOCK" in refused(folder)


def test_a_run_does_not_start_from_a_checkpoint_of_another_distribution(toy, install, tmp_path):
    install("first-eye")
    folder = toy.build(["eye"]).save_pretrained(tmp_path / "ck")
    install("first-eye", version="0.2.0")
    with pytest.warns(UserWarning, match=r"first-eye 0\.1\.0, and 0\.2\.0 is installed"):
        checkpoint.start_from(toy.build(["eye"]), folder)
    install.remove("first-eye")
    install("second-eye")
    with pytest.raises(CheckpointError, match=r"expert eye: second-eye/eye where first-eye/eye was recorded; start"):
        checkpoint.start_from(toy.build(["eye"]), folder)
