from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tove_core.config import RunConfig, TrainingConfig
from tove_core.errors import CheckpointError, ConfigError, Interrupted, PlacementError, ToveError
from tove_core.run_folder import STATE, states
from tove_core.settings import read_config, write_config
from tove_core.training import fit, resume, train
from tove_core.training.examples import Examples
from tove_core.training.faults import listening, memory_named, not_finite
from tove_core.training.run import prepare
from tove_core.training.state import load_state

DRIVER = Path(__file__).with_name("driver.py")
TURNS = int(os.environ.get("TOVE_TORTURE", "3"))


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"steps": 7, "batch_size": 5, "learning_rate": 1e-2, "warmup": 2, "log_every": 1} | changes
    )


def trained_state(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_state_from_which_the_run_goes_on_to_the_last_bit(
    toy: Any, tmp_path: Path, number: signal.Signals
) -> None:
    straight, model, again = (toy.build(decoder={"train": "all"}) for _ in range(3))
    fit(straight, toy.examples(straight), config(), quiet=True)
    before = signal.getsignal(number)

    def ask(done: int) -> None:
        if done == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=f"{number.name} ended the run after step 4 of 7") as caught:
        fit(model, toy.examples(model), config(), output=tmp_path, quiet=True, after_step=ask)
    assert caught.value.signal == number and signal.getsignal(number) is before
    assert f"'tove train {tmp_path} --resume'" in str(caught.value)
    fit(again, toy.examples(again), config(), output=tmp_path, resume=True, quiet=True)
    wanted = trained_state(straight)
    assert [name for name, p in trained_state(again).items() if not torch.equal(p, wanted[name])] == []


def test_a_second_signal_at_once_is_an_echo_and_not_a_kill() -> None:
    with listening() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal == signal.SIGTERM


STUCK = """
import hashlib
from tove_core.training.faults import listening
with listening():
    print("listening", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000_000)  # a long native call: no line of Python runs meanwhile
"""


@pytest.mark.parametrize("between", [0.0, 3.3])
def test_a_second_signal_ends_a_run_in_a_native_call_at_once_and_an_echo_does_not(between: float) -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "listening\n"
        try:
            process.send_signal(signal.SIGINT)
            time.sleep(between)
            process.send_signal(signal.SIGTERM)
            if between:
                assert process.wait(20) == 128 + signal.SIGTERM
            else:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(1)
        finally:
            process.kill()


def test_the_signal_of_a_forked_process_is_not_the_runs() -> None:
    with listening() as request:
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert request.signal is None


def test_a_signal_after_the_last_step_does_not_spoil_a_finished_run(toy: Any, tmp_path: Path) -> None:
    model = toy.build()
    fit(
        model,
        toy.examples(model),
        config(steps=2),
        output=tmp_path,
        quiet=True,
        after_step=lambda done: os.kill(os.getpid(), signal.SIGTERM) if done == 1 else None,
    )
    assert model.trained


def test_a_bad_loss_names_the_sample_and_the_last_good_state_and_changes_nothing(toy: Any, tmp_path: Path) -> None:
    model = toy.build()
    examples = toy.examples(model)
    at_four: dict[str, torch.Tensor] = {}

    def spoil(done: int) -> None:
        if done == 4:
            at_four.update(trained_state(model))
            # Its epoch is not over: 12 samples, 20 seen; s7 comes again soon.
            examples.table.features["clip"][examples.rows[7]] = float("inf")

    with pytest.raises(ToveError, match=r"the loss is nan at step [56] \(samples 's7'\)") as caught:
        fit(model, examples, config(save_every=1), output=tmp_path, quiet=True, after_step=spoil)
    assert "the last good state is" in str(caught.value) and "\n" not in str(caught.value)
    newest = states(tmp_path / STATE)[0]
    assert str(newest) in str(caught.value)
    kept = load_file(newest / "state.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert all(torch.isfinite(value).all() for value in trained_state(model).values())


def test_a_bad_gradient_stops_before_it_reaches_a_parameter(toy: Any) -> None:
    model = toy.build()
    examples, before = toy.examples(model), trained_state(model)
    model.decoder.projector.linear_2.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(ToveError, match=r"the gradient is (inf|nan) at step 1 \(samples 's\d+', 's\d+'"):
        fit(model, examples, config(), quiet=True)
    assert all(torch.equal(value, before[name]) for name, value in trained_state(model).items())


def resumed(toy: Any, folder: Path, **changes: Any) -> Any:
    """Train five steps of seven, and go on with other settings; return the model."""
    first, again = toy.build(decoder={"train": "all"}), toy.build(decoder={"train": "all"})
    folder.mkdir(exist_ok=True)

    def stop(done: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(first, toy.examples(first), config(save_every=5), output=folder, quiet=True, after_step=stop)
    fit(again, toy.examples(again), config(**changes), output=folder, resume=True, quiet=True)
    return again


def test_an_average_that_is_asked_for_later_begins_with_what_was_trained(toy: Any, tmp_path: Path) -> None:
    straight, seen = toy.build(decoder={"train": "all"}), {}

    def note(done: int) -> None:
        seen[done] = {name: value.double() for name, value in trained_state(straight).items()}

    fit(straight, toy.examples(straight), config(), quiet=True, after_step=note)
    found = trained_state(resumed(toy, tmp_path, average=0.9999))
    for name, value in found.items():
        wanted = seen[5][name]
        for step in (6, 7):
            decay = (1 + step) / (10 + step)
            wanted = decay * wanted + (1 - decay) * seen[step][name]
        torch.testing.assert_close(value.double(), wanted, atol=1e-6, rtol=1e-5, msg=name)


def test_what_changes_the_order_of_samples_is_told_when_a_run_goes_on(toy: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"from step-00000005 with other training.batch_size \(was 5, is 4\): which"):
        resumed(toy, tmp_path / "batch", batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed(toy, tmp_path / "same", learning_rate=1e-3)
    model = toy.build(decoder={"train": "all"})
    prepare(model, toy.samples())
    fewer = Examples.cached(model, toy.samples()[:9])
    with pytest.warns(UserWarning, match=r"number of samples \(was 12, is 9\), samples \(was \w+, is \w+\)"):
        fit(model, fewer, config(steps=8), output=tmp_path / "same", resume=True, quiet=True, seed=0)


def test_full_memory_says_what_to_shrink(toy: Any) -> None:
    model = toy.build()
    examples = toy.examples(model)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.decoder.language_model.register_forward_pre_hook(full)
    with pytest.raises(PlacementError, match=r"at step 1, with 5 samples .* training.accumulate to 2") as caught:
        fit(model, examples, config(), quiet=True)
    assert "training.checkpointing" in str(caught.value)
    with pytest.raises(PlacementError, match=r"with 1 samples at a time .*; use a smaller model$"):
        fit(model, examples, config(accumulate=5, checkpointing=True), quiet=True)


def test_full_memory_in_the_frozen_parts_names_the_largest_expert(toy: Any) -> None:
    model = toy.build()
    toy.examples(model)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    live = Examples(model, toy.samples())
    model.experts["toy-fine"].register_forward_pre_hook(full)
    with pytest.raises(PlacementError, match=r"saw 5 images; give the largest expert, 'toy-wide', micro_batch auto"):
        fit(model, live, config(), quiet=True)


def saved(toy: Any, folder: Path) -> Any:
    model = toy.build()
    fit(model, toy.examples(model), config(steps=4, save_every=1), output=folder, quiet=True)
    return model


def step_of(toy: Any, folder: Path) -> int:
    from tove_core.training.optimise import parameter_groups
    from tove_core.training.step import TransferStep

    model = toy.build()
    inner = TransferStep(model.fusion, model.decoder)
    return load_state(folder / STATE, inner, torch.optim.AdamW(parameter_groups(inner, config())))


def test_only_the_two_newest_states_are_kept(toy: Any, tmp_path: Path) -> None:
    saved(toy, tmp_path)
    assert [p.name for p in states(tmp_path / STATE)] == ["step-00000004", "step-00000003"]
    assert step_of(toy, tmp_path) == 4


@pytest.mark.parametrize("harm", ["flip", "truncate", "missing", "header"])
def test_a_damaged_state_is_noticed_and_the_one_before_it_used(toy: Any, tmp_path: Path, harm: str) -> None:
    saved(toy, tmp_path)

    def spoil(folder: Path) -> None:
        tensors = folder / "state.safetensors"
        data = bytearray(tensors.read_bytes())
        if harm == "flip":
            data[-5] ^= 4
        if harm in ("flip", "truncate"):
            tensors.write_bytes(data if harm == "flip" else data[:-8])
        elif harm == "missing":
            tensors.unlink()
        else:
            (folder / "state.json").write_text('{"format": 2, "st')

    newest, older = states(tmp_path / STATE)
    spoil(newest)
    with pytest.warns(UserWarning, match="going on from the older state step-00000003"):
        assert step_of(toy, tmp_path) == 3
    spoil(older)
    with pytest.raises(CheckpointError, match=r"holds no state to resume from .*step-00000004.*step-00000003"):
        step_of(toy, tmp_path)


def test_an_output_that_cannot_be_written_is_said_before_any_work(toy: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "run", Path("/proc/run")):
        run = RunConfig.model_validate({"data": {"path": tmp_path / "no-such-data"}, "output": output})
        with pytest.raises(CheckpointError, match="cannot be written"):
            train(run, quiet=True)


def small(toy: Any, output: Path, **training: Any) -> RunConfig:
    model = {"clip": {"name": toy.clip}, "experts": ["toy-fine"], "decoder": {"name": toy.decoder}}
    training = {"steps": 3, "batch_size": 5, "warmup": 1, "log_every": 1} | training
    return RunConfig.model_validate(
        {"model": model, "data": {"path": toy.data}, "training": training, "output": output}
    )


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("every", "cure"), [(None, r"set training\.save_every in .*config\.yaml$"), (2, "below 2$")])
def test_a_run_stopped_before_its_first_state_begins_anew(
    toy: Any, tmp_path: Path, every: int | None, cure: str
) -> None:
    write_config(small(toy, tmp_path, save_every=every), tmp_path / "config.yaml")
    (tmp_path / STATE / ".step-00000001-x.tmp").mkdir(parents=True)  # of a process that was killed as it wrote
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 99}\n{"step"')
    with pytest.raises(CheckpointError, match=r"not finished; go on with 'tove train .* --resume'"):
        train(small(toy, tmp_path), quiet=True)
    with pytest.warns(UserWarning, match=f"before its first state was saved; it begins anew; to lose less, .*{cure}"):
        assert resume(tmp_path, quiet=True).trained
    assert (tmp_path / "checkpoint" / "tove.json").is_file() and steps(tmp_path) == [1, 2, 3]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["loss"] < 99


@pytest.mark.parametrize("every", [None, 2, 3])
def test_a_finished_run_is_not_trained_again(toy: Any, tmp_path: Path, every: int | None) -> None:
    folder = tmp_path / "run"
    train(small(toy, folder, save_every=every), quiet=True)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(CheckpointError, match=r"is finished and its model is in .*checkpoint, so there is nothing"):
        resume(folder, quiet=True)
    with pytest.raises(CheckpointError, match="holds a run already, which is finished; set another output"):
        train(small(toy, folder), quiet=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_finished_run_that_is_given_more_steps_goes_on_to_them(toy: Any, tmp_path: Path) -> None:
    train(small(toy, tmp_path, save_every=2), quiet=True)
    write_config(small(toy, tmp_path, save_every=2, steps=5), tmp_path / "config.yaml")
    assert resume(tmp_path, quiet=True).trained
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_folder_whose_model_no_run_of_its_own_trained_is_not_trained_over(toy: Any, tmp_path: Path) -> None:
    train(small(toy, tmp_path / "run"), quiet=True)
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "small")  # as tove detach writes one: no run's folder around it
    (tmp_path / "small" / "config.yaml").write_bytes((tmp_path / "run" / "config.yaml").read_bytes())
    with pytest.raises(CheckpointError, match="is finished"):
        resume(tmp_path / "small", quiet=True)


def test_resuming_leaves_a_configuration_that_says_the_same_untouched(toy: Any, tmp_path: Path) -> None:
    train(small(toy, tmp_path / "run", save_every=2), quiet=True)
    path = tmp_path / "run" / "config.yaml"
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    path.write_text(f"# mine\n{path.read_text()}")
    before = path.stat()
    resume(tmp_path / "run", quiet=True)
    assert path.read_text().startswith("# mine") and path.stat().st_ino == before.st_ino
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    resume(moved, quiet=True)
    assert read_config(RunConfig, moved / "config.yaml").output == moved


def test_a_fault_says_which_command_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    settings, command = folder / "config.yaml", f"'tove train {shlex.quote(str(folder))} --resume'"
    without = str(not_finite("the loss is nan", 3, ["a"], folder))
    assert "no state was saved" in without and f"in {settings}, set training.save_every there" in without
    assert f"begin anew with {command}" in without
    (folder / STATE / "step-00000002").mkdir(parents=True)
    kept = str(not_finite("the loss is nan", 3, ["a"], folder))
    assert "step-00000002" in kept and f"go on from it with {command}" in kept and "save_every" not in kept
    assert "--resume" not in str(not_finite("the loss is nan", 3, ["a"], None))
    blamed = str(not_finite("the loss is nan", 3, ["a"], None, ["toy-fine", "toy-fine"]))
    assert "(samples 'a'), for which 'toy-fine' gives values that are not finite;" in blamed
    assert "leave the expert out" in blamed and "learning_rate" not in blamed
    for error in (torch.OutOfMemoryError("CUDA out of memory"), PlacementError("expert 'x' does not fit; do this")):
        wanted = pytest.raises(PlacementError, match=r"; change .*config\.yaml and go on with 'tove train ")
        with wanted, memory_named(1, 4, config(), folder):
            raise error


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(toy: Any, tmp_path: Path) -> None:
    gate = {"hidden": 6, "noise": 0.7, "balance": 0.5, "balance_warmup": 1, "expert_dropout": 0.3}
    model = {"experts": list(toy.experts), "clip": toy.clip, "decoder": {"name": toy.decoder, "train": "all"}}
    model |= {"fusion": {"kind": "gate", "gate": gate}, "seed": 4}
    training = {"steps": 40, "batch_size": 5, "warmup": 2, "log_every": 1, "save_every": 1}
    common = {"world": 1, "data": str(toy.data), "model": model, "training": training}
    seed = int.from_bytes(os.urandom(2), "big")
    jobs = [common | {"output": str(tmp_path / "straight")}]
    jobs.append(common | {"output": str(tmp_path / "killed"), "kills": TURNS, "seed": seed, "resume": True})
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    env = os.environ | {"PYTHONPATH": str(toy.site), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    words = [sys.executable, str(DRIVER), str(tmp_path / "jobs.json")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60 + 30 * TURNS)
    assert done.returncode == 0, done.stderr
    wanted, found = (load_file(tmp_path / name / "final-0.safetensors") for name in ("straight", "killed"))
    assert [key for key in wanted if not torch.equal(wanted[key], found[key])] == [], f"seed {seed}"
    straight, killed = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("straight", "killed"))
    losses = [[json.loads(line)["loss"] for line in lines] for lines in (straight, killed)]
    assert losses[0] == losses[1] and len(losses[0]) == 40, f"seed {seed}"
    assert not list((tmp_path / "killed" / STATE).glob(".*"))


def test_a_process_that_has_trained_on_another_device_says_so(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    Accelerator(cpu=True)
    for kept in (AcceleratorState._shared_state, PartialState._shared_state):  # as a run on a GPU leaves them
        monkeypatch.setitem(kept, "device", torch.device("cuda", 0))
    model = toy.build()
    examples = toy.examples(model)
    with pytest.raises(ConfigError, match=r"training on cpu cannot begin \(.*\); .* in a process of its own"):
        fit(model, examples, config(), quiet=True)
