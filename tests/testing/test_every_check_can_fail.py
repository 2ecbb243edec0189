"""One broken expert per check: the check that is meant to find it does, and says what is wrong."""

from __future__ import annotations

import contextlib
import os
import re
import socket

import pytest
import torch
from torch import nn

from tove_core.spec import Cost, Grid, Input, Weights
from tove_core.testing import CATALOGUE
from tove_core.testing.geometry import TURNS

CHANNELS, STRIDE = 33, 8
PARAMS = 3 * CHANNELS * STRIDE**2 + CHANNELS
FLOPS = 2 * 3 * CHANNELS * STRIDE**2 * 6 * 8  # two per weight of the convolution and position of the map


class Patches(nn.Module):
    """The conforming expert of conftest.py, to be broken."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, STRIDE, STRIDE)

    def forward(self, pixels):
        return {"map": self.conv(pixels)}


class Changed(Patches):
    """The conforming expert with something done to its map."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, pixels):
        return {"map": self.change(self.conv(pixels))}


def with_map(change):
    """Return a factory of experts whose map is changed."""
    return lambda ctx: Changed(change)


def reads_a_value(ctx):
    torch.linspace(0, 1, 3).tolist()
    return Patches()


def downloads_quietly(ctx):
    with contextlib.suppress(OSError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    return Patches()


def reads_weights(ctx):
    torch.load("nowhere.pth")


def unseeded(ctx):
    module, draw = Patches(), torch.Generator()
    draw.seed()
    nn.init.normal_(module.conv.bias, generator=draw)
    return module


def forgets_a_buffer(ctx):
    module = Patches()
    module.register_buffer("positions", torch.empty(5, dtype=torch.int64), persistent=False)
    return module


def forgets_a_parameter(ctx):
    module = Patches()
    module.scale = nn.Parameter(torch.empty(3))
    return module


def sets_threads(ctx):
    torch.set_num_threads(torch.get_num_threads() + 1)
    return Patches()


def sets_cudnn(ctx):
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    return Patches()


def sets_a_variable(ctx):
    os.environ["TOVE_ODD"] = "1"
    return Patches()


def threaded(found):
    torch.set_num_threads(torch.get_num_threads() + 1)
    return found


def hides_a_tensor(ctx):
    shift = torch.rand(CHANNELS, 1, 1)
    return Changed(lambda found: found + shift)


class Counts(Patches):
    """Counts its calls in a buffer."""

    def __init__(self, ctx) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, pixels):
        self.calls += 1
        return super().forward(pixels)


class Trains(Patches):
    """Goes back to training mode when it is run."""

    def __init__(self, ctx) -> None:
        super().__init__()

    def forward(self, pixels):
        self.conv.train()
        return super().forward(pixels)


class Graph(Patches):
    """Switches gradients on."""

    def __init__(self, ctx) -> None:
        super().__init__()

    def forward(self, pixels):
        with torch.enable_grad():
            pixels = pixels.detach().requires_grad_()
            return super().forward(pixels)


class Writes(Patches):
    """Writes into its pixels, out of torch's sight or in it."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, pixels):
        found = super().forward(pixels)
        if pixels.is_meta:
            return found
        if self.hidden:
            pixels.numpy()[:] = 0
        else:
            pixels.zero_()
        return found


class Square(Patches):
    """Assumes the size it was declared with."""

    def __init__(self, ctx) -> None:
        super().__init__()

    def forward(self, pixels):
        return {"map": super().forward(pixels)["map"].flatten(2).unflatten(2, (6, 8))}


class Standardises(Patches):
    """Divides each image by its own spread."""

    def __init__(self, ctx) -> None:
        super().__init__()

    def forward(self, pixels):
        return super().forward((pixels - pixels.mean()) / pixels.std((1, 2, 3), keepdim=True))


class Remembers(Patches):
    """Gives the mean of this map and the last."""

    def __init__(self, ctx) -> None:
        super().__init__()
        self.last = None

    def forward(self, pixels):
        found = super().forward(pixels)["map"]
        last = found if self.last is None or self.last.shape != found.shape else self.last
        self.last = found
        return {"map": (found + last) / 2}


class Tires(Patches):
    """Is another expert from its seventh call on."""

    def __init__(self, ctx) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, pixels):
        self.calls += 1
        return {"map": super().forward(pixels)["map"] + (self.calls > 6)}


class Reuses(Patches):
    """Writes each map over the last one of its size."""

    def __init__(self, ctx) -> None:
        super().__init__()
        self.out = None

    def forward(self, pixels):
        found = super().forward(pixels)["map"]
        if self.out is None or self.out.shape != found.shape or self.out.device != found.device:
            self.out = torch.empty_like(found)
        self.out.copy_(found)
        return {"map": self.out}


def scattered(found):
    return found.flatten(2).mT.reshape(found.shape)


def pops(state):
    state.pop("conv.bias")
    return dict(state)


MIT = {"repo": "owner/name", "license": "MIT"}
BROKEN = [
    ("spec-valid", {"options": {"dtype": torch.float32}}, "cannot be written as JSON"),
    ("described", {"weights": Weights(**MIT)}, "neither homepage nor citation"),
    ("license-spdx", {"weights": Weights(repo="a/b", license="apache-2.0")}, "'apache-2.0' is written 'Apache-2.0'"),
    ("license-spdx", {"weights": Weights(repo="a/b", license="other")}, "'other' is not on the list"),
    ("license-spdx", {"weights": Weights(repo="a/b", license="LicenseRef-Own")}, "license_url"),
    ("weights-pinned-or-lockable", {"weights": Weights(**MIT, sha256="0" * 64)}, "sha256 0000.* is made up"),
    ("weights-pinned-or-lockable", {"weights": Weights(repo="alone", license="MIT")}, "'alone' is not owner/name"),
    ("weights-pinned-or-lockable", {"weights": Weights(package="json", license="MIT")}, "has no file model"),
    ("factory-resolves", {"factory": "nowhere_at_all:build"}, "nowhere_at_all:build cannot be imported"),
    ("builds-on-meta", {"factory": reads_a_value}, "building on meta raised"),
    ("params-exact", {"cost": Cost(params=PARAMS + 1)}, f"the module has params={PARAMS:_}"),
    ("flops-within-5-percent", {"cost": Cost(params=PARAMS, flops=FLOPS // 2)}, f"measured flops={FLOPS:_}"),
    ("contract-shapes", {"outputs": {"map": Grid(channels=34, stride=STRIDE)}}, r"\[2, 33, 6, 8\].* \[2, 34, 6, 8\]"),
    ("contract-shapes", {"factory": with_map(lambda found: found.long())}, "'map' is torch.int64; return floating"),
    ("contract-shapes", {"factory": with_map(lambda found: found.nonsense)}, "forward raised AttributeError"),
    ("contract-nonsquare", {"factory": Square}, r"forward raised RuntimeError for pixels \[1, 3, 56, 64\]"),
    ("builds-offline", {"factory": downloads_quietly}, "it used the network .*192.0.2.1"),
    ("builds-offline", {"factory": reads_weights}, "it opened the weight file nowhere.pth"),
    ("builds-offline", {"factory": lambda ctx: 1 / 0}, "could not be built .*ZeroDivisionError"),
    ("random-init-deterministic", {"factory": unseeded}, "conv.bias differs between two builds"),
    ("no-uninitialised-tensors", {"factory": forgets_a_buffer}, r"positions \[5\] is never written to"),
    ("no-uninitialised-tensors", {"factory": forgets_a_parameter}, r"scale \[3\] is never written to"),
    ("no-uninitialised-tensors", {"factory": with_map(lambda m: m + torch.empty(m.shape) * 0)}, "forward pass holds"),
    ("no-global-state", {"factory": sets_threads}, "the factory changed torch's number of threads"),
    ("no-global-state", {"factory": sets_cudnn}, "the factory changed cudnn.benchmark"),
    ("no-global-state", {"factory": sets_a_variable}, "the factory changed the environment variable TOVE_ODD"),
    ("no-global-state", {"factory": with_map(threaded)}, "forward changed torch's number of threads"),
    ("no-global-state", {"factory": with_map(nn.functional.dropout)}, "forward changed torch's random generator"),
    ("state-dict-roundtrip", {"factory": hides_a_tensor}, "map differs by .* after loading the state dict"),
    ("convert-is-pure", {"convert": pops}, "the state dict it was given is another one"),
    ("convert-is-pure", {"convert": lambda state: list(state)}, "returned list"),
    ("frozen-and-eval-sticky", {"factory": Counts}, "a forward pass changed calls"),
    ("frozen-and-eval-sticky", {"factory": Trains}, "conv is in training mode"),
    ("no-grad-graph", {"factory": Graph}, "'map' holds a gradient graph"),
    ("input-unchanged", {"factory": lambda ctx: Writes(True)}, "the pixels are others"),
    ("input-unchanged", {"factory": lambda ctx: Writes(False)}, "wrote into its input"),
    ("finite", {"factory": Standardises}, "'map' is not finite for black and white"),
    ("batch-independent", {"factory": with_map(lambda found: found - found.mean(0))}, "when the image is alone"),
    ("bf16-close", {"factory": with_map(lambda found: (found + 1000) - 1000)}, "in bfloat16"),
    ("outputs-unchanged", {"factory": Reuses}, "map of one image is another after the next image"),
    ("calls-independent", {"factory": Remembers}, "map differs by .* after another image"),
    ("grid-follows-image", {"factory": with_map(scattered)}, "spread over the whole map"),
]


@pytest.mark.parametrize(("id", "fields", "says"), BROKEN, ids=[f"{id}-{i}" for i, (id, _, _) in enumerate(BROKEN)])
def test_a_check_finds_its_fault(id, fields, says, offer, verdict):
    fields = dict(fields)
    if isinstance(fields.get("factory"), str):
        expert = offer().model_copy(update=fields)
    else:
        expert = offer(fields.pop("factory", lambda ctx: Patches()), fields.pop("convert", None), **fields)
    result = verdict(id, expert)
    assert result.status == "failed", result
    assert re.search(says, result.detail), result.detail
    assert "\n" not in result.detail


def test_a_counter_that_only_later_calls_pass_is_found_after_all_other_checks(offer, everything):
    results = everything(offer(Tires))
    assert list(results)[-1] == "calls-independent"
    assert results["calls-independent"].status == "failed"


@pytest.mark.parametrize(("factory", "id"), [(Reuses, "outputs-unchanged"), (Counts, "frozen-and-eval-sticky")])
def test_what_is_kept_between_calls_fails_its_own_check_alone(factory, id, offer, everything):
    assert [id for id, result in everything(offer(factory)).items() if not result.ok] == [id]


class Fixed(nn.Module):
    """A map without weights: of the pixels, or of nothing."""

    def __init__(self, make, constant=None) -> None:
        super().__init__()
        self.make = make
        if constant is not None:
            self.register_buffer("constant", constant)

    def forward(self, pixels):
        return {"map": self.make(nn.functional.avg_pool2d(pixels, STRIDE).repeat(1, CHANNELS // 3, 1, 1))}


BLIND = {
    "zeros": torch.zeros_like,
    "cut to whole numbers": lambda found: (found / 100).long().float(),
    "one value": lambda found: torch.full_like(found, 0.3),
}


@pytest.mark.parametrize("make", BLIND.values(), ids=BLIND.keys())
@pytest.mark.parametrize("constant", [None, torch.ones(3)])
def test_a_map_without_weights_that_never_looks_at_the_image_is_found(make, constant, offer, verdict):
    result = verdict("grid-follows-image", offer(lambda ctx: Fixed(make, constant), cost=None))
    assert result.status == "failed"
    assert "'map' is the same whatever the image, and the expert has no weights" in result.detail
    assert verdict("grid-follows-image", offer(lambda ctx: Fixed(lambda found: found), cost=None)).ok


def test_a_map_that_weights_may_still_make_depend_on_the_image_is_no_fault(offer, verdict):
    result = verdict("grid-follows-image", offer(with_map(torch.zeros_like), cost=None))
    assert result.status == "not applicable"
    assert "does not depend on the image while its weights are random" in result.detail


ELSEWHERE = {"entry-point-canonical", "light-import", "weights-load", "regions-in-range"}


def test_every_check_has_been_seen_to_fail():
    assert {definition.id for definition in CATALOGUE} - {id for id, _, _ in BROKEN} == ELSEWHERE


@pytest.mark.parametrize("turn", list(TURNS))
def test_a_turned_map_is_found_and_named(turn, offer, verdict):
    square = Input(size=(64, 64), patch=STRIDE)
    result = verdict("grid-follows-image", offer(with_map(TURNS[turn]), input=square, cost=None))
    assert result.ok == (turn == "as it should be"), result
    assert result.ok or f"'map' is {turn}" in result.detail


ODD = """
from tove_core import ExpertSpec, Grid, Input, hookimpl
{more}
@hookimpl
def tove_experts():
    out = Grid(channels=3, stride=8, norm="fixed")
    return [ExpertSpec(api=1, name="{name}", summary="Odd.", factory="odd_plugin:build",
            input=Input(size=(16, 16)), outputs={{"map": out}})]
"""


def test_a_plugin_that_imports_torch_through_another_module_is_found_with_the_line(installed, verdict):
    installed(ODD.format(name="odd", more="import odd_plugin_more"), extra="\nimport json\nimport torch.nn\n")
    result = verdict("light-import", "odd")
    assert result.status == "failed"
    assert "imports torch (" in result.detail
    assert "odd_plugin_more.py, line 3)" in result.detail


def test_an_entry_point_with_an_odd_name_is_found(installed, verdict):
    installed(ODD.format(name="dinov2", more=""), entry_point="Odd_One")
    result = verdict("entry-point-canonical", "odd-plugin/dinov2")
    assert "'Odd_One'" in result.detail


def test_an_expert_in_the_shadow_of_tove_is_told_the_name_that_finds_it(installed, verdict):
    installed(ODD.format(name="dinov2", more=""))
    result = verdict("entry-point-canonical", "odd-plugin/dinov2")
    assert result.status == "not applicable"
    assert "'dinov2' finds tove-core/dinov2; this one is asked for as odd-plugin/dinov2" in result.detail
    assert verdict("light-import", "odd-plugin/dinov2").status == "passed"


def test_shipped_weights_of_another_architecture_are_found(tmp_path, monkeypatch, offer, verdict):
    from safetensors.torch import save_file

    (tmp_path / "shipped_weights").mkdir()
    (tmp_path / "shipped_weights" / "__init__.py").touch()
    file = tmp_path / "shipped_weights" / "model.safetensors"
    save_file({"conv.weight": torch.zeros(2, 3, 8, 8)}, file)
    monkeypatch.syspath_prepend(str(tmp_path))
    expert = offer(weights=Weights(package="shipped_weights", license="MIT"))
    result = verdict("weights-load", expert)
    assert "1 missing (conv.bias), 1 of another shape" in result.detail
    assert "package weights without a hash; it is sha256=" in verdict("weights-pinned-or-lockable", expert).detail
    save_file(dict(Patches().state_dict()), file)
    assert verdict("weights-load", expert).status == "passed"
