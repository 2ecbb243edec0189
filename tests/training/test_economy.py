"""What makes training cheaper or better without being another training: checkpointing, averages, rates of parts."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core.config import TrainingConfig
from tove_core.errors import CheckpointError, ConfigError
from tove_core.training import fit
from tove_core.training.checkpointing import checkpointed
from tove_core.training.optimise import parameter_groups
from tove_core.training.step import TransferStep
from tove_core.training.trackers import Trackers, require_trackers


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"steps": 5, "batch_size": 5, "learning_rate": 1e-2, "warmup": 1} | changes)


def trained_state(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("train", ["none", "all"])
def test_checkpointing_changes_no_bit_and_keeps_less(toy: Any, train: str) -> None:
    found, kept = [], []
    for wanted in (False, True):
        model = toy.build(decoder={"train": train})
        examples = toy.examples(model)
        saved: list[int] = []

        def pack(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            fit(model, examples, config(steps=2, checkpointing=wanted), quiet=True)
        found.append(trained_state(model))
        kept.append(sum(saved))
        assert "forward" not in vars(model.decoder.language_model.model.layers[0])
    assert [name for name in found[0] if not torch.equal(found[0][name], found[1][name])] == []
    assert kept[1] < kept[0]


def test_a_decoder_without_marked_layers_cannot_be_checkpointed(toy: Any) -> None:
    decoder = toy.build().decoder
    decoder.language_model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ConfigError, match="has no layers that can be checkpointed"), checkpointed(decoder):
        pass


def test_the_average_is_the_running_mean_of_the_parameters_it_saw(toy: Any) -> None:
    plain, averaged = toy.build(), toy.build()
    examples = toy.examples(plain)
    seen = [trained_state(plain)]  # calibrated
    fit(plain, examples, config(), quiet=True, after_step=lambda _: seen.append(trained_state(plain)))
    fit(averaged, toy.examples(averaged), config(average=0.4), quiet=True)
    for name, found in trained_state(averaged).items():
        wanted = seen[0][name].double()
        for step in range(1, 6):
            decay = min(0.4, (1 + step) / (10 + step))
            wanted = decay * wanted + (1 - decay) * seen[step][name].double()
        assert torch.allclose(found.double(), wanted, atol=1e-6), name
    assert not torch.equal(found, seen[-1][name])


def test_the_average_resumes_to_the_last_bit(toy: Any, tmp_path: Path) -> None:
    straight, again = toy.build(), toy.build()
    settings = config(average=0.9, save_every=3)
    fit(straight, toy.examples(straight), settings, quiet=True)
    first = toy.build()

    def stop(done: int) -> None:
        if done == 3:
            raise KeyError

    with pytest.raises(KeyError):
        fit(first, toy.examples(first), settings, output=tmp_path, quiet=True, after_step=stop)
    fit(again, toy.examples(again), settings, output=tmp_path, resume=True, quiet=True)
    wanted = trained_state(straight)
    assert [name for name, p in trained_state(again).items() if not torch.equal(p, wanted[name])] == []


def test_each_part_has_its_own_rate(toy: Any) -> None:
    model = toy.build(decoder={"train": "all"})
    step = TransferStep(model.fusion, model.decoder)
    rates = {"gate": 1e-5, "projector": 2e-5, "decoder": 3e-5}
    groups = parameter_groups(step, config(**{f"{part}_learning_rate": rate for part, rate in rates.items()}))
    found = {id(p): group["lr"] for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    for module, rate in [
        (model.fusion.gate, 1e-5),
        (model.decoder.projector, 2e-5),
        (model.decoder.language_model, 3e-5),
        (model.fusion.second, 1e-2),
        (model.fusion.first, 1e-2),
    ]:
        assert {found[id(p)] for p in module.parameters()} == {rate}


WRITER = """
import json
from pathlib import Path

class SummaryWriter:
    def __init__(self, folder, purge_step=None):
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.file = (Path(folder) / "events.jsonl").open("a")
        self.file.write(json.dumps([purge_step, "purge", None]) + "\\n")

    def add_scalar(self, name, value, global_step=None, **_):
        self.file.write(json.dumps([global_step, name, value]) + "\\n")

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()
"""


def test_tensorboard_gets_what_the_metrics_file_gets(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorboardX.py").write_text(WRITER)  # the smaller of the two packages accelerate writes through
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    model = toy.build()
    (tmp_path / "run").mkdir()
    settings = config(steps=4, log_every=2, trackers=["tensorboard"])
    fit(model, toy.examples(model), settings, output=tmp_path / "run", quiet=True)
    found = [json.loads(line) for line in next((tmp_path / "run").rglob("events.jsonl")).read_text().splitlines()]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert [line["step"], "loss", line["loss"]] in found
        assert [line["step"], "gate/toy-wide", line["gate"]["toy-wide"]] in found
    assert {step for step, name, _ in found if name != "purge"} == {2, 4}


def as_read(events: list[list[Any]]) -> list[list[Any]]:
    """Return what TensorBoard shows of events: a new writer's purge drops what is at its step or later."""
    shown: list[list[Any]] = []
    for step, name, value in events:
        if name == "purge":
            shown = [one for one in shown if step is None or one[0] < step]
        else:
            shown.append([step, name, value])
    return shown


def test_tensorboard_of_a_resumed_run_shows_every_step_once(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorboardX.py").write_text(WRITER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    (tmp_path / "run").mkdir()
    stopped_and_resumed(toy, tmp_path / "run", "tensorboard")
    found = [json.loads(line) for line in next((tmp_path / "run").rglob("events.jsonl")).read_text().splitlines()]
    assert [step for step, name, _ in found if name == "loss"] == [1, 2, 3, 3, 4, 5]
    assert [step for step, name, _ in as_read(found) if name == "loss"] == [1, 2, 3, 4, 5]


class Stopped(Exception):
    pass


def stopped_and_resumed(toy: Any, folder: Path, tracker: str) -> None:
    """Train five steps: stop after the third, go on from the state after the second."""
    settings = config(log_every=1, save_every=2, trackers=[tracker])

    def stop(done: int) -> None:
        if done == 3:
            raise Stopped

    for resume, after in ((False, stop), (True, None)):
        model = toy.build()
        given = {"output": folder, "quiet": True, "resume": resume, "after_step": after}
        with suppress(Stopped):
            fit(model, toy.examples(model), settings, **given)


WANDB = """
import json
from pathlib import Path

class Run:
    def __init__(self, file, id):
        self.file, self.id = file, id

    def log(self, values, step=None):
        self.file.write(json.dumps([self.id, step, values["loss"]]) + "\\n")

    def finish(self):
        self.file.close()

class config:
    def update(values, allow_val_change=False):
        pass

def init(project, name, dir, id, resume):
    assert project == "tove" and resume == "allow" and Path(dir).name == name
    return Run((Path(dir) / "logged.jsonl").open("a"), id)
"""


def test_a_resumed_run_is_the_same_one_to_wandb_and_one_that_begins_anew_is_not(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (tmp_path / "run").mkdir()
    stopped_and_resumed(toy, tmp_path / "run", "wandb")
    found = [json.loads(line) for line in (tmp_path / "run" / "logged.jsonl").read_text().splitlines()]
    assert [step for _, step, _ in found] == [1, 2, 3, 3, 4, 5]
    assert {known for known, *_ in found} == {(tmp_path / "run" / "wandb-id.txt").read_text().strip()}
    model = toy.build()
    fit(model, toy.examples(model), config(steps=1, trackers=["wandb"]), output=tmp_path / "run", quiet=True)
    last = json.loads((tmp_path / "run" / "logged.jsonl").read_text().splitlines()[-1])
    assert last[0] != found[0][0]
    monkeypatch.delitem(sys.modules, "wandb")


def test_a_tracker_that_cannot_write_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logged.jsonl").symlink_to("/dev/full")
    trackers = Trackers(["wandb"], tmp_path / "run", config())
    trackers.log(1, {"loss": 1.0})
    with pytest.raises(CheckpointError, match=r"the trackers cannot write into .*No space left"):
        trackers.close()
    monkeypatch.delitem(sys.modules, "wandb")


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tove-core\[wandb\]"):
        require_trackers(["wandb"])
