from __future__ import annotations

import os
import random
import sys
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tove_core.errors import PluginError, WeightsError
from tove_core.hub.digest import sha256
from tove_core.hub.load import load_expert
from tove_core.hub.lock import Lock
from tove_core.hub.state import tensors_of
from tove_core.spec import ExpertSpec, Variant, Weights

MakeSpec = Callable[..., ExpertSpec]
WriteModule = Callable[[str, str], None]
HUB = Weights(repo="o/n", license="MIT")


def tiny_state(seed: int = 5, channels: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (channels, 3, 4, 4), "conv.bias": (channels,), "norm.running_mean": (channels,)}
    state = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    ones = {f"norm.{key}": torch.ones(channels) for key in ("weight", "bias", "running_var")}
    return state | ones | {"norm.num_batches_tracked": torch.tensor(3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "given").mkdir()
    save_file(tiny_state(), tmp_path / "given" / "tiny.safetensors")
    return tmp_path / "given"


def test_weights_are_loaded_frozen_cast_and_their_hash_returned(make_spec: MakeSpec, folder: Path) -> None:
    expert, digest = load_expert(make_spec(weights=HUB), name="d/tiny", weights=folder, dtype=torch.bfloat16)
    assert digest == sha256(folder / "tiny.safetensors")
    assert (expert.name, expert.spec.name, expert.dtype) == ("d/tiny", "tiny", torch.bfloat16)
    assert not expert.training and not any(p.requires_grad for p in expert.parameters())
    loaded = expert.module.state_dict()
    for key, value in tiny_state().items():
        assert torch.equal(loaded[key], value.to(loaded[key].dtype))
    assert expert(torch.zeros(2, 3, 8, 12))["map"].shape == (2, 5, 2, 3)


def test_weights_come_from_the_hub_with_the_checkpoints_hash_first(
    make_spec: MakeSpec, folder: Path, hub: Any, lock: Lock
) -> None:
    file = folder / "tiny.safetensors"
    hub.commit("o/n", "a" * 40, {"model.safetensors": file.read_bytes()})
    wrong = HUB.model_copy(update={"sha256": "0" * 64})
    _, digest = load_expert(make_spec(weights=wrong), name="tiny", expected_sha256=sha256(file), lock=lock)
    assert digest == sha256(file)
    with pytest.raises(WeightsError, match="says 0000"):
        load_expert(make_spec(weights=wrong), name="tiny", lock=lock)


EXTRA = """
import torch
from torch import nn
class Part(nn.Module):
    def __init__(self, kept):
        super().__init__()
        self.kept = kept
    def get_extra_state(self):
        return self.kept
class Takes(Part):
    def set_extra_state(self, state):
        self.kept = state
class Whole(Takes):
    def __init__(self):
        super().__init__({"version": 3})
        self.gives, self.takes, self.tensor = Part({"a": 1}), Takes(["b"]), Takes(torch.zeros(2))
        self.conv = nn.Conv2d(3, 5, 4, 4)
    def forward(self, pixels):
        return {"map": self.conv(pixels)}
def build(ctx):
    return Whole()
"""


def test_extra_state_that_is_no_tensor_stays_as_built_and_tensors_are_loaded(
    make_spec: MakeSpec, write_module: WriteModule, tmp_path: Path
) -> None:
    write_module("extra_expert", EXTRA)
    spec = make_spec(weights=HUB, factory="extra_expert:build")
    built, _ = load_expert(spec, name="extra", weights="random")
    state = tensors_of(built.module) | {"tensor._extra_state": torch.ones(2), "conv.bias": torch.full((5,), 2.0)}
    assert set(state) == {"conv.weight", "conv.bias", "tensor._extra_state"}
    save_file({key: value.detach() for key, value in state.items()}, tmp_path / "tiny.safetensors")
    loaded = load_expert(spec, name="extra", weights=tmp_path)[0].module
    assert torch.equal(loaded.conv.bias, state["conv.bias"]) and torch.equal(loaded.tensor.kept, torch.ones(2))
    assert (loaded.kept, loaded.gives.kept, loaded.takes.kept) == ({"version": 3}, {"a": 1}, ["b"])
    del state["tensor._extra_state"]
    save_file({key: value.detach() for key, value in state.items()}, tmp_path / "tiny.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing \(tensor._extra_state\)"):
        load_expert(spec, name="extra", weights=tmp_path)


def test_a_convert_function_is_applied_before_loading(make_spec: MakeSpec, folder: Path) -> None:
    save_file({f"model.{key}": value for key, value in tiny_state().items()}, folder / "tiny.safetensors")
    with pytest.raises(WeightsError, match="missing"):
        load_expert(make_spec(weights=HUB), name="tiny", weights=folder)
    spec = make_spec(weights=HUB, convert="tiny_expert:strip")
    expert, _ = load_expert(spec, name="tiny", weights=folder)
    assert torch.equal(expert.module.state_dict()["conv.bias"], tiny_state()["conv.bias"])


def test_weights_that_do_not_fit_are_summed_up_in_one_sentence(make_spec: MakeSpec, folder: Path) -> None:
    state = tiny_state()
    for key in ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        del state[key]
    save_file(state | {"head.weight": torch.ones(2), "conv.bias": torch.ones(6)}, folder / "tiny.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_expert(make_spec(weights=HUB), name="d/tiny", weights=folder)
    message = str(caught.value)
    assert "expert 'd/tiny'" in message and "\n" not in message
    assert "4 missing (norm.weight, norm.bias, norm.running_mean, ...)" in message
    assert "1 unexpected (head.weight)" in message
    assert "1 of another shape (conv.bias [6] for [5])" in message


def test_the_default_variant_is_applied(make_spec: MakeSpec) -> None:
    outputs = {"map": {"kind": "grid", "channels": 7, "stride": 2, "norm": "fixed"}}
    spec = make_spec(variants={"fine": Variant.model_validate({"outputs": outputs})}, default="fine")
    expert, digest = load_expert(spec, name="tiny")
    assert digest is None
    assert expert(torch.zeros(1, 3, 8, 12))["map"].shape == (1, 7, 4, 6)


def parameters(spec: ExpertSpec, **options: Any) -> torch.Tensor:
    expert, _ = load_expert(spec, **{"name": "x", "weights": "random"} | options)
    return torch.cat([p.flatten() for p in expert.parameters()])


def test_random_weights_depend_on_the_expert_and_the_seed_alone(make_spec: MakeSpec) -> None:
    spec = make_spec(weights=HUB)
    first = parameters(spec)
    torch.rand(17)
    parameters(make_spec("other", weights=HUB))
    assert torch.equal(parameters(spec, name="another/name"), first)
    assert not torch.equal(parameters(spec, seed=1), first)
    assert not torch.equal(parameters(make_spec("other", weights=HUB)), first)


def test_a_first_import_does_not_change_random_weights(make_spec: MakeSpec, write_module: WriteModule) -> None:
    text = "import torch\nNOISE = torch.rand(3)\ndef build(ctx):\n    return torch.nn.Linear(3, 2)\n"
    write_module("noisy_import", text)
    spec = make_spec(factory="noisy_import:build")
    assert torch.equal(parameters(spec), parameters(spec))


def test_what_an_expert_gives_does_not_depend_on_which_others_are_built(make_spec: MakeSpec) -> None:
    pixels = torch.randn(2, 3, 8, 12)
    alone = load_expert(make_spec(weights=HUB), name="tiny", weights="random")[0](pixels)["map"]
    names = ("first", "tiny", "last")
    several = {n: load_expert(make_spec(n, weights=HUB), name=n, weights="random")[0] for n in names}
    assert torch.equal({name: expert(pixels) for name, expert in several.items()}["tiny"]["map"], alone)


def test_generators_and_default_dtype_are_as_before(make_spec: MakeSpec, keep_rng: None) -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    def reset() -> None:
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)

    reset()
    expected = draw()
    reset()
    torch.set_default_dtype(torch.float64)
    try:
        expert, _ = load_expert(make_spec(), name="tiny")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert expert.dtype == torch.float32
    assert draw() == expected


GLOBAL = [
    ("torch's default dtype", "torch.set_default_dtype(torch.float64)", torch.get_default_dtype),
    ("torch's gradient mode", "torch.set_grad_enabled(False)", torch.is_grad_enabled),
    ("torch's number of threads", "torch.set_num_threads(torch.get_num_threads() + 1)", torch.get_num_threads),
    ("torch's matmul precision", "torch.set_float32_matmul_precision('medium')", torch.get_float32_matmul_precision),
    ("torch's matmul precision", "torch.backends.cuda.matmul.allow_tf32 = True", torch.get_float32_matmul_precision),
    ("torch's matmul", "torch.backends.cuda.matmul.fp32_precision = 'tf32'", torch.get_float32_matmul_precision),
    (
        "torch's deterministic algorithms",
        "torch.use_deterministic_algorithms(True, warn_only=True)",
        torch.is_deterministic_algorithms_warn_only_enabled,
    ),
    ("cudnn.benchmark", "torch.backends.cudnn.benchmark = True", lambda: torch.backends.cudnn.benchmark),
    ("cudnn.allow_tf32", "torch.backends.cudnn.allow_tf32 = False", lambda: torch.backends.cudnn.allow_tf32),
    ("cudnn.allow_tf32", "torch.backends.cudnn.rnn.fp32_precision = 'ieee'", lambda: torch.backends.cudnn.allow_tf32),
    ("torch's anomaly detection", "torch.autograd.set_detect_anomaly(True)", torch.is_anomaly_enabled),
    ("the environment variable CUDA_ODD", "import os; os.environ['CUDA_ODD'] = '1'", lambda: os.getenv("CUDA_ODD")),
    ("the environment variable PATH", "import os; os.environ['PATH'] = ''", lambda: os.getenv("PATH")),
    ("the environment variable HOME", "import os; del os.environ['HOME']", lambda: os.getenv("HOME")),
]
"""What is said of a factory, what it does, and how its trace is read."""


@pytest.mark.parametrize("place", ["import", "build", "failing build"])
@pytest.mark.parametrize(("state", "change", "read"), GLOBAL)
def test_global_state_a_factory_changes_is_restored_and_reported(
    make_spec: MakeSpec, write_module: WriteModule, state: str, change: str, read: Callable[[], object], place: str
) -> None:
    at_import, at_build = (change, "pass") if place == "import" else ("", change)
    end = "raise RuntimeError('no')" if place == "failing build" else "return torch.nn.Linear(1, 1)"
    write_module("meddler", f"import torch\n{at_import}\ndef build(ctx):\n    {at_build}\n    {end}\n")
    before = read()
    with pytest.warns(RuntimeWarning, match=f"'tiny' changed {state}"):
        if place == "failing build":
            with pytest.raises(PluginError):
                load_expert(make_spec(factory="meddler:build"), name="tiny")
        else:
            expert, _ = load_expert(make_spec(factory="meddler:build"), name="tiny")
            assert expert.dtype == torch.float32
    assert read() == before


def test_a_variable_that_libraries_set_themselves_is_no_doing_of_a_factory(
    make_spec: MakeSpec, write_module: WriteModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # put back after the test
    code = "import os, torch\ndef build(ctx):\n    os.environ['TORCHINDUCTOR_CACHE_DIR'] = '/x'\n    return {}\n"
    write_module("library", code.format("torch.nn.Linear(1, 1)"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_expert(make_spec(factory="library:build"), name="tiny")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/x"


TALKING = """
import os, sys, torch
sys.modules["hub_test_meeting"].inside.set()
def build(ctx):
    os.environ["FACTORY_WROTE"] = "1"
    print("said by the factory")
    meeting = sys.modules["hub_test_meeting"]
    meeting.building.set()
    assert meeting.done.wait(20)
    return torch.nn.Linear(1, 1)
"""


def test_what_other_threads_print_and_write_to_the_environment_meanwhile_is_theirs(
    make_spec: MakeSpec,
    write_module: WriteModule,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    meeting = types.SimpleNamespace(**{name: threading.Event() for name in ("inside", "building", "done")})
    monkeypatch.setitem(sys.modules, "hub_test_meeting", meeting)  # type: ignore[arg-type]
    monkeypatch.setenv("CHANGED_MEANWHILE", "before")
    monkeypatch.setenv("REMOVED_MEANWHILE", "before")
    write_module("talking", TALKING)
    told: list[str] = []

    def build() -> None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            load_expert(make_spec(factory="talking:build"), name="tiny")
        told.extend(str(one.message) for one in said)

    thread = threading.Thread(target=build)
    thread.start()
    assert meeting.building.wait(20)
    os.environ["SET_MEANWHILE"] = os.environ["CHANGED_MEANWHILE"] = "after"
    del os.environ["REMOVED_MEANWHILE"]
    print("said by another")
    meeting.done.set()
    thread.join()
    kept = {name: os.environ.pop(name, None) for name in ("SET_MEANWHILE", "CHANGED_MEANWHILE", "REMOVED_MEANWHILE")}
    assert kept == {"SET_MEANWHILE": "after", "CHANGED_MEANWHILE": "after", "REMOVED_MEANWHILE": None}
    assert "FACTORY_WROTE" not in os.environ and type(os.environ).__name__ == "_Environ"
    assert [one.partition(" changed ")[2] for one in told] == [
        "the environment variable FACTORY_WROTE; it was undone, tell its author"
    ]
    assert tuple(capsys.readouterr()) == ("said by another\n", "said by the factory\n")


CROSSING = """
import sys, torch
def build(ctx):
    first, second = sys.modules["hub_test_crossing"].entered
    own, other = (first, second) if ctx.spec.name == "first" else (second, first)
    own.set()
    other.wait(0.5)  # in vain, where one waits for the other to be built
    if own is second:
        sys.modules["hub_test_crossing"].left.wait(0.5)
    return torch.nn.Linear(3, 2)
"""


def test_builds_that_cross_leave_stdout_and_generators_and_draw_what_they_draw_alone(
    make_spec: MakeSpec, write_module: WriteModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossing = types.SimpleNamespace(entered=(threading.Event(), threading.Event()), left=threading.Event())
    monkeypatch.setitem(sys.modules, "hub_test_crossing", crossing)  # type: ignore[arg-type]
    write_module("crossing", CROSSING)
    out, state, found = sys.stdout, torch.get_rng_state(), {}

    def build(name: str) -> None:
        found[name] = parameters(make_spec(name, factory="crossing:build"))
        crossing.left.set()

    threads = [threading.Thread(target=build, args=(name,)) for name in ("first", "second")]
    threads[0].start()
    assert crossing.entered[0].wait(20)
    threads[1].start()
    for thread in threads:
        thread.join()
    after, torch_state = sys.stdout, torch.get_rng_state()
    sys.stdout = out
    assert after is out and torch.equal(torch_state, state)
    for name in ("first", "second"):
        assert torch.equal(parameters(make_spec(name, factory="crossing:build")), found[name])


def test_a_well_behaved_factory_is_not_reported(make_spec: MakeSpec) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_expert(make_spec(), name="tiny")


@pytest.mark.parametrize(
    ("text", "factory", "words", "cause"),
    [
        ("", "not_installed_anywhere:build", "cannot be imported.*not_installed_anywhere", ModuleNotFoundError),
        ("", "bad_plugin:build", "cannot be imported.*no attribute 'build'", AttributeError),
        ("1 / 0", "bad_plugin:build", "cannot be imported.*ZeroDivisionError", ZeroDivisionError),
        ("import sys; sys.exit(3)", "bad_plugin:build", "cannot be imported.*SystemExit", SystemExit),
        ("def build(ctx): raise KeyError('x')", "bad_plugin:build", "failed.*KeyError", KeyError),
        ("build = 7", "bad_plugin:build", "is int, not a function", None),
        ("def build(ctx): return {'a': 1}", "bad_plugin:build", "must return a torch.nn.Module", None),
        ("import torch\ndef build(ctx): return torch.nn.Linear", "bad_plugin:build", "must return a torch", None),
        (
            "import torch\ndef build(ctx): return torch.nn.Linear(2, 2, device='meta')",
            "bad_plugin:build",
            "left weight on meta",
            None,
        ),
    ],
)
def test_a_broken_factory_is_a_plugin_error_with_its_cause(
    make_spec: MakeSpec, write_module: WriteModule, text: str, factory: str, words: str, cause: type | None
) -> None:
    write_module("bad_plugin", text)
    with pytest.raises(PluginError, match=f"expert 'd/tiny'.*{words}") as caught:
        load_expert(make_spec(factory=factory), name="d/tiny")
    assert isinstance(caught.value.__cause__, cause) if cause else caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("body", "words"),
    [("raise KeyError('x')", "failed.*KeyError"), ("return [1]", "mapping"), ("return {1: 2}", "mapping")],
)
def test_a_broken_convert_function_is_a_plugin_error(
    make_spec: MakeSpec, write_module: WriteModule, folder: Path, body: str, words: str
) -> None:
    write_module("bad_convert", f"def convert(state):\n    {body}\n")
    with pytest.raises(PluginError, match=words):
        load_expert(make_spec(weights=HUB, convert="bad_convert:convert"), name="tiny", weights=folder)


def test_the_factory_gets_the_spec_and_options_that_cannot_be_changed(
    make_spec: MakeSpec, write_module: WriteModule
) -> None:
    text = "import torch\ndef build(ctx):\n    ctx.options['side'] = 9\n    return torch.nn.Linear(1, 1)\n"
    write_module("changes_options", text)
    with pytest.raises(PluginError, match="TypeError"):
        load_expert(make_spec(factory="changes_options:build", options={"side": 3}), name="tiny")
    write_module("reads_options", "import torch\ndef build(ctx):\n    return torch.nn.Linear(ctx.options['side'], 1)\n")
    expert, _ = load_expert(make_spec(factory="reads_options:build", options={"side": 3}), name="tiny")
    assert expert.module.in_features == 3
