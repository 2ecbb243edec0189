from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tove_core import ToveModel, checkpoint
from tove_core.errors import CheckpointError, ConfigError, UnknownExpertError
from tove_core.fusion.selector import Selection

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")
OWN = {"name": "toy-fine", "alias": "apart", "gate": "own"}


def moved(toy: Any, *experts: Any, **options: Any) -> Any:
    """A calibrated model whose trained tensors are not those it starts with."""
    model = toy.build(list(experts or toy.experts), **options)
    model.calibrate(toy.pictures(4))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def assert_as_pruned(toy: Any, folder: Path, gone: dict[str, Any], place: Path) -> None:
    """Loading without experts gives what detaching and pruning them does, on the disk too."""
    want = ToveModel.from_pretrained(folder)
    for name, rule in gone.items():
        want.detach(name, rule)
    want.prune()
    given = checkpoint.load(folder, without=gone)
    assert torch.equal(given.tokens(toy.pictures()), want.tokens(toy.pictures()))
    assert (given.config, given.provenance) == (want.config, want.provenance)
    one, other = given.save_pretrained(place / "given"), want.save_pretrained(place / "want")
    assert (one / "tove.json").read_text() == (other / "tove.json").read_text()
    assert load_file(one / "model.safetensors").keys() == load_file(other / "model.safetensors").keys()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_without_experts_is_detached_and_pruned(toy: Any, tmp_path: Path, rule: str, full: bool) -> None:
    folder = moved(toy, *toy.experts, OWN).save_pretrained(tmp_path / "it", full=full)
    assert_as_pruned(toy, folder, {"toy-wide": rule, "apart": rule}, tmp_path / "two")
    assert_as_pruned(toy, folder, dict.fromkeys([*toy.experts, "apart"], rule), tmp_path / "all")


def test_ghosts_stay_and_an_expert_that_bears_the_name_of_one_can_leave(toy: Any, tmp_path: Path) -> None:
    model = moved(toy)
    model.detach("toy-whole", "zero")
    model.prune()
    model.add_expert("toy-whole", images=toy.pictures(2))
    folder = model.save_pretrained(tmp_path / "it")
    assert_as_pruned(toy, folder, {"toy-whole": "zero", "toy-fine": "zero"}, tmp_path / "both")
    assert_as_pruned(toy, folder, {"toy-whole": "renormalise"}, tmp_path / "one")


@pytest.mark.parametrize("fusion", ["uniform", "concat"])
def test_other_fusions_leave_no_ghost_and_do_not_renormalise(toy: Any, tmp_path: Path, fusion: str) -> None:
    folder = moved(toy, "toy-fine", "toy-wide", fusion=fusion).save_pretrained(tmp_path / "it")
    assert_as_pruned(toy, folder, {"toy-fine": "zero"}, tmp_path)
    with pytest.raises(ConfigError, match="no softmax to renormalise"):
        checkpoint.load(folder, without={"toy-fine": "renormalise"})
    with pytest.raises(UnknownExpertError, match=r"no expert 'toy-none'; it has: toy-fine, toy-wide"):
        checkpoint.load(folder, without={"toy-none": "zero"})


def test_an_expert_whose_plugin_is_gone_can_be_detached(toy: Any, tove: Any, tmp_path: Path) -> None:
    model = moved(toy)
    model.detach("toy-fine", "renormalise")  # off already, and it leaves too
    folder = model.save_pretrained(tmp_path / "it")
    model.detach("toy-whole", "zero")
    gone = Path(shutil.copytree(folder, tmp_path / "gone"))
    manifest = gone / "tove.json"
    manifest.write_text(manifest.read_text().replace("toy-experts/toy-whole", "toy-gone/toy-whole"))
    with pytest.raises(CheckpointError, match=r"not installed.*'tove detach'"):
        ToveModel.from_pretrained(gone)
    done = tove("detach", gone, "toy-whole", "--out", tmp_path / "less")
    assert done.code == 0 and done.out.endswith("with toy-wide\n")
    less: Any = ToveModel.from_pretrained(tmp_path / "less")
    assert torch.equal(less.tokens(toy.pictures()), model.tokens(toy.pictures()))
    assert list(less.experts) == ["toy-wide"] and less.fusion.ghosts == ["toy-whole"]


def test_what_is_off_already_leaves_by_its_rule_and_this_is_said(toy: Any, tove: Any, tmp_path: Path) -> None:
    model = moved(toy)
    model.detach("toy-fine", "renormalise")
    folder, want = model.save_pretrained(tmp_path / "it"), model.tokens(toy.pictures())
    assert "without toy-fine by renormalise," in tove("detach", folder, "toy-fine", "--out", tmp_path / "one").out
    assert torch.equal(ToveModel.from_pretrained(tmp_path / "one").tokens(toy.pictures()), want)
    done = tove("detach", folder, "toy-wide", "--out", tmp_path / "both")
    assert "without toy-fine by renormalise, toy-wide by zero," in done.out
    done = tove("detach", folder, "toy-fine", "--rule", "zero", "--out", tmp_path / "by-zero")
    assert "without toy-fine by zero," in done.out


def test_a_selector_loses_the_rows_of_experts_that_leave(toy: Any, tmp_path: Path) -> None:
    model = moved(toy, *toy.experts, OWN)
    costs = {"toy-fine": 0.2, "toy-wide": 0.5, "toy-whole": 0.3}
    model.selector = checkpoint.selector_of(model, Selection(budget=0.5, price=0, costs=costs, hidden=4))
    with torch.no_grad():
        for row in model.selector.rows.values():
            row.weight.fill_(0.3)  # type: ignore[operator]
            row.bias.fill_(0.1)  # type: ignore[operator]
    folder = model.save_pretrained(tmp_path / "it")
    assert_as_pruned(toy, folder, {"toy-wide": "zero", "apart": "zero"}, tmp_path / "two")
    # One that it does not know is left, and runs on every image as if there were no selector.
    assert_as_pruned(toy, folder, dict.fromkeys(toy.experts, "renormalise"), tmp_path / "known")
    assert checkpoint.load(tmp_path / "known" / "given").selector is None
    assert_as_pruned(toy, folder, dict.fromkeys([*toy.experts, "apart"], "zero"), tmp_path / "all")
