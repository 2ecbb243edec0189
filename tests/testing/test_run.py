"""What is run for whom, how results are counted, and what becomes of announced failures."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from torch import nn

from tove_core.errors import ConfigError, UnknownExpertError
from tove_core.hub.regions import RegionBatch
from tove_core.spec import Cost, Grid, Input, Regions, Variant, Vector
from tove_core.testing import CATALOGUE, CheckFailed, NotApplicable, checks, count, parametrize_with_checks, run_checks


def statuses(results):
    return Counter(result.status for result in results.values())


def not_applicable(results):
    return {id for id, result in results.items() if result.status == "not applicable"}


NO_WEIGHTS = {"described", "license-spdx", "weights-pinned-or-lockable", "weights-load", "convert-is-pure"}
NOT_INSTALLED = {"entry-point-canonical", "light-import"}


def test_a_grid_runs_every_check(offer, everything):
    results = everything(offer())
    assert len(results) == len(CATALOGUE) == 29
    assert [r for r in results.values() if not r.ok] == []
    assert not_applicable(results) == NO_WEIGHTS | NOT_INSTALLED | {"regions-in-range"}
    assert results["params-exact"].detail == "params=6_369"
    assert results["flops-within-5-percent"].detail == "flops=608_256"


class Mean(nn.Module):
    """A vector per image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, channels)

    def forward(self, pixels):
        return {"code": self.layer(pixels.mean((2, 3)))}


def test_a_vector_has_no_grid_to_follow(offer, everything):
    outputs = {"code": Vector(channels=5, norm="none")}
    results = everything(offer(lambda ctx: Mean(5), outputs=outputs, cost=Cost(params=20, flops=30)))
    assert [r for r in results.values() if not r.ok] == []
    nothing = NO_WEIGHTS | NOT_INSTALLED | {"regions-in-range", "grid-follows-image"}
    assert not_applicable(results) == nothing
    assert statuses(results) == {"passed": 29 - len(nothing), "not applicable": len(nothing)}


class NeedsValues(nn.Module):
    """A convolution, a step that meta cannot take, and another convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 33, 8, 8), nn.Conv2d(33, 33, 1)

    def forward(self, pixels):
        found = self.first(pixels)
        return {"map": self.second(found) if found.abs().max().item() > 0 else found}


def test_what_meta_cannot_count_to_the_end_is_counted_where_there_are_values(offer, verdict):
    first, second = 2 * 33 * 192 * 48, 2 * 33 * 33 * 48
    for flops, status in ((first + second, "passed"), (2 * first, "failed")):
        result = verdict("flops-within-5-percent", offer(lambda ctx: NeedsValues(), cost=Cost(params=0, flops=flops)))
        assert result.status == status
        assert f"flops={first + second:_}" in result.detail
    nearly = verdict("flops-within-5-percent", offer(lambda ctx: NeedsValues(), cost=Cost(params=0, flops=first)))
    assert nearly.detail == f"flops={first:_}, up to the first step that needs values"


class Finds(nn.Module):
    """One region per image, the brightest quarter; its place needs values, so it cannot run on meta."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, pixels):
        places = [int(quarter.argmax().item()) for quarter in nn.functional.adaptive_avg_pool2d(pixels.mean(1), 2)]
        corners = torch.tensor([[(p % 2) / 2, (p // 2) / 2, (p % 2 + 1) / 2, (p // 2 + 1) / 2] for p in places])
        boxes = (corners * self.scale)[:, None].repeat(1, 2, 1)
        scores = pixels.new_tensor([0.75 if self.scale else 0.0, 0.0]).expand(len(pixels), 2)
        found = "found" if self.scale else ""
        return {"things": RegionBatch(boxes, scores, scores > 0, text=[[found, ""]] * len(pixels))}


def test_regions_are_looked_at_and_need_no_meta(offer, everything):
    def expert(scale):
        return offer(lambda ctx: Finds(scale), outputs={"things": Regions(limit=2, text=True)}, cost=Cost(params=0))

    results = everything(expert(1.0))
    if "cannot use regions yet" in results["contract-shapes"].detail:
        pytest.skip(results["contract-shapes"].detail)
    assert [r for r in results.values() if not r.ok] == []
    assert results["regions-in-range"].detail == "things: 2 of 4 slots hold a region"
    assert "not on meta" in results["contract-shapes"].detail
    assert "flops are not declared, and meta has none" in results["flops-within-5-percent"].detail
    unsure = everything(expert(0.0))  # boxes without extent, and none of them valid
    assert {"regions-in-range", "batch-independent"} <= not_applicable(unsure)
    assert "a threshold of 0 in `tiny`" in unsure["regions-in-range"].detail
    wrong = everything(expert(64.0))
    assert not all(result.ok for result in wrong.values())


def test_figures_that_are_not_declared_are_measured_and_told(offer, everything):
    results = everything(offer(cost=None))
    assert results["params-exact"].status == results["flops-within-5-percent"].status == "not applicable"
    assert "cost=Cost(params=6_369)" in results["params-exact"].detail
    both = "measured: cost=Cost(params=6_369, flops=608_256)"
    assert both in results["flops-within-5-percent"].detail, "a line to paste, which the other check agrees with"


def test_variants_are_all_checked_and_the_smallest_is_built(offer, patches):
    def build(ctx):
        return patches(ctx.options["channels"])

    def size(channels):
        return Variant(
            outputs={"map": Grid(channels=channels, stride=8)},
            options={"channels": channels},
            cost=Cost(params=193 * channels),
        )

    expert = offer(build, variants={"large": size(77), "small": size(35)}, default="large", cost=None)
    results = list(run_checks(expert))
    assert [r for r in results if not r.ok] == []
    by_subject = Counter(result.check.subject.name for result in results)
    assert by_subject == {"probe:small": 29, "probe:large": sum(d.tier != "module" for d in CATALOGUE)}
    assert {r.check.subject.name for r in results if r.check.definition.tier == "module"} == {"probe:small"}
    broken = expert.model_copy(
        update={"variants": {**expert.variants, "large": size(77).model_copy(update={"cost": Cost(params=1)})}}
    )
    assert [r.check.id for r in run_checks(broken) if not r.ok] == ["params-exact"]


def test_the_tiny_architecture_computes_and_the_full_one_is_counted(offer, patches, everything):
    built = []

    def build(ctx):
        module = patches(ctx.options.get("channels", 2_001))
        built.append((module.conv.weight.device.type, module.conv.out_channels))
        return module

    expert = offer(
        build,
        outputs={"map": Grid(channels=2_001, stride=8)},
        cost=Cost(params=193 * 2_001),
        tiny={"channels": 34},
        tiny_input=Input(size=(16, 24), patch=8),
    )
    results = everything(expert)
    assert [r for r in results.values() if not r.ok] == []
    assert set(built) == {("meta", 2_001), ("cpu", 34)}
    assert results["contract-shapes"].detail == "map 2001x6x8 for 48x64"
    assert results["builds-offline"].detail == "tiny"


def test_a_named_variant_is_checked_in_full():
    ids = [check.id for check in checks("dinov2:large")]
    assert ids == [definition.id for definition in CATALOGUE]
    with pytest.raises(UnknownExpertError, match=r"no expert named 'dinov4'; did you mean"):
        list(checks("dinov4"))


def shifted(ctx):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 33, 8, 8)

        def forward(self, pixels):
            return {"map": self.conv(pixels) - self.conv(pixels).mean(0)}

    return Shifted()


def test_an_announced_failure_counts_as_conforming_and_must_fail(offer):
    reason = {"batch-independent": "subtracts the batch's mean, as published"}
    cost = Cost(params=6_369)
    results = {r.check.id: r for r in run_checks(offer(shifted, cost=cost), expected_failures=reason)}
    assert results["batch-independent"].status == "failed as expected"
    assert results["batch-independent"].detail.startswith("subtracts the batch's mean, as published (map differs")
    assert all(result.ok for result in results.values())
    healthy = {r.check.id: r for r in run_checks(offer(), expected_failures=reason)}
    assert healthy["batch-independent"].status == "expected to fail"
    assert "but passed; remove the expectation" in healthy["batch-independent"].detail
    assert not healthy["batch-independent"].ok
    never = {r.check.id: r for r in run_checks(offer(), expected_failures={"weights-load": "why not"})}["weights-load"]
    assert not never.ok
    assert "but not applicable: it ships no weights" in never.detail


def test_a_failure_can_be_announced_for_one_expert_of_several(offer):
    other = offer(name="other")
    known = {"probe/batch-independent": "so be it"}
    cost = Cost(params=6_369)
    results = list(run_checks(other, offer(shifted, cost=cost), expected_failures=known))
    assert all(result.ok for result in results)
    assert [r.check.subject.name for r in results if r.status == "failed as expected"] == ["probe"]
    with pytest.raises(ConfigError, match="there is no check 'prob/batch-independent'"):
        list(run_checks(other, expected_failures={"prob/batch-independent": "so be it"}))


@pytest.mark.parametrize("key", ["finite", "odd/finite", "odd-plugin/odd/finite"])
def test_a_failure_of_an_expert_that_is_asked_for_in_full_is_announced_by_either_name(key, installed):
    code = """
from tove_core import ExpertSpec, Grid, Input, hookimpl
@hookimpl
def tove_experts():
    return [ExpertSpec(api=1, name="odd", summary="Odd.", factory="odd_plugin:build", input=Input(size=(16, 16)),
                       outputs={"map": Grid(channels=3, stride=8, norm="fixed")})]
"""
    installed(code)
    mark = parametrize_with_checks("odd-plugin/odd", expected_failures={key: "so be it"}).mark
    assert [one.check.id for one in mark.args[1] if one.reason] == ["finite"]


@pytest.mark.parametrize(
    "run",
    [
        lambda e, f: list(run_checks(e, expected_failures=f)),
        lambda e, f: parametrize_with_checks(e, expected_failures=f),
    ],
)
def test_an_announcement_needs_a_check_that_exists_and_a_reason(run, offer):
    with pytest.raises(ConfigError, match="there is no check 'bf16'"):
        run(offer(), {"bf16": "rounding"})
    with pytest.raises(ConfigError, match="without a reason"):
        run(offer(), {"bf16-close": "  "})


def test_the_count_names_every_kind(offer):
    results = list(
        run_checks(
            offer(shifted, cost=Cost(params=1)), expected_failures={"batch-independent": "so be it", "finite": "never"}
        )
    )
    assert count(results) == (
        "29 checks: 17 passed, 1 failed, 1 expected to fail, 1 failed as expected, 9 not applicable"
    )


def test_a_check_can_be_run_by_itself(offer):
    found = {check.id: check for check in checks(offer(cost=Cost(params=1)))}
    assert found["finite"].run() == ""
    assert "exactly the parameters" in found["params-exact"].summary
    with pytest.raises(CheckFailed, match="params=6_369"):
        found["params-exact"].run()
    with pytest.raises(NotApplicable):
        found["weights-load"].run()


def test_pytest_hears_of_failures_with_cause_and_cure_of_skips_and_of_announced_failures(offer):
    mark = parametrize_with_checks(
        offer(shifted, cost=Cost(params=1)), expected_failures={"batch-independent": "so be it", "finite": "never"}
    ).mark
    assert mark.args[0] == "check"
    assert mark.kwargs["ids"][0] == "probe-spec-valid"
    by_id = {check.check.id: check for check in mark.args[1]}
    by_id["contract-shapes"]()
    with pytest.raises(pytest.fail.Exception, match=r"params=6_369\ncause: .*\ncure: Copy the measured figure"):
        by_id["params-exact"]()
    with pytest.raises(pytest.skip.Exception, match="not applicable: it ships no weights"):
        by_id["weights-load"]()
    with pytest.raises(pytest.xfail.Exception, match="so be it"):
        by_id["batch-independent"]()
    with pytest.raises(pytest.fail.Exception, match="expected to fail: finite"):
        by_id["finite"]()


def other_width(ctx):
    return Patched(lambda found: found[:, :30])


def raises(ctx):
    raise KeyError("depth")


def writes(ctx):
    return Patched(lambda found: found, before=lambda pixels: pixels.zero_())


def no_module(ctx):
    return "a module"


class Patched(nn.Module):
    """The conforming expert with something done before it and after it."""

    def __init__(self, after, before=lambda pixels: None):
        super().__init__()
        self.conv, self.before, self.after = nn.Conv2d(3, 33, 8, 8), before, after

    def forward(self, pixels):
        self.before(pixels)
        return {"map": self.after(self.conv(pixels))}


class Halves(Patched):
    """Computes in half precision without having said so, which meta takes for granted."""

    def __init__(self, ctx):
        super().__init__(torch.Tensor.float)
        self.conv.weight.data = self.conv.weight.data.half()

    def forward(self, pixels):
        return {"map": self.conv(pixels.half())}


def unused(pixels):
    raise ValueError("no depth")


ONE_FAULT = {
    "an output of another width": (other_width, {"contract-shapes"}, r"shape \[\d, 30, 6, 8\]; the spec promises"),
    "whole numbers": (lambda ctx: Patched(torch.Tensor.long), {"contract-shapes"}, "'map' is torch.int64"),
    "no mapping": (lambda ctx: nn.Identity(), {"contract-shapes", "params-exact"}, "returned Tensor; return a mapping"),
    "an error in forward": (lambda ctx: Patched(unused), {"contract-shapes"}, "forward raised ValueError .* no depth"),
    "an error that meta does not see": (Halves, {"contract-shapes"}, "forward raised RuntimeError"),
    "an error in the factory": (raises, {"builds-offline"}, "failed \\(KeyError: 'depth'\\)"),
    "a factory of something else": (no_module, {"builds-offline"}, "must return a torch.nn.Module"),
    "pixels written into": (writes, {"input-unchanged"}, "wrote into its input"),
}


@pytest.mark.parametrize(("factory", "failing", "says"), ONE_FAULT.values(), ids=ONE_FAULT.keys())
def test_one_fault_fails_the_check_it_is_the_subject_of_and_the_others_are_not_run(
    factory, failing, says, offer, everything
):
    results = everything(offer(factory, cost=Cost(params=6_369)))
    assert {id for id, result in results.items() if result.status == "failed"} == failing
    stopped = [result for result in results.values() if result.status == "not run"]
    assert len(stopped) >= 8
    assert not any(result.ok for result in stopped)
    assert all(re.search(says, result.detail) for result in stopped), [result.detail for result in stopped]
    assert re.search(says, results[min(failing)].detail)


def test_a_function_that_cannot_be_imported_is_told_once(offer, everything):
    for field in ("factory", "convert"):
        results = everything(offer(cost=Cost(params=6_369)).model_copy(update={field: "nowhere_at_all:build"}))
        assert {id for id, result in results.items() if result.status == "failed"} == {"factory-resolves"}, field
        stopped = [result.detail for result in results.values() if result.status == "not run"]
        assert all("nowhere_at_all:build cannot be imported" in detail for detail in stopped) and stopped, field


def test_impossible_regions_are_told_by_their_own_check(offer, everything):
    outputs = {"things": Regions(limit=2, text=True)}
    results = everything(offer(lambda ctx: Finds(64.0), outputs=outputs, cost=Cost(params=0)))
    assert {id for id, result in results.items() if result.status == "failed"} == {"regions-in-range"}
    assert "a valid box is not finite or leaves 0..1" in results["contract-shapes"].detail


def test_what_a_check_itself_brings_about_is_its_own_failure(offer, everything):
    def alone_only(found):
        return found if len(found) > 1 else found.squeeze(0)

    results = everything(offer(lambda ctx: Patched(alone_only), cost=Cost(params=6_369)))
    assert results["batch-independent"].status == "failed"
    assert results["contract-shapes"].status == "passed"
    assert "not run" not in statuses(results)


def test_a_check_that_was_not_run_is_no_pass_in_pytest_and_meets_no_expectation(offer):
    expert = offer(other_width, cost=Cost(params=6_369))
    mark = parametrize_with_checks(expert, expected_failures={"finite": "divides by zero"}).mark
    by_id = {check.check.id: check for check in mark.args[1]}
    with pytest.raises(pytest.fail.Exception, match=r"not run: finite: .*promises") as caught:
        by_id["finite"]()
    assert "cause:" not in str(caught.value)
    found = list(run_checks(expert))
    assert re.search(r"\d+ passed, 1 failed, \d+ not run, \d+ not applicable$", count(found))


def test_the_words_of_every_check_are_sentences():
    assert len({definition.id for definition in CATALOGUE}) == len(CATALOGUE)
    for one in CATALOGUE:
        assert one.cause.endswith(".")
        assert one.cure.rstrip(")").endswith((".", "`"))
        assert one.summary[0].islower() and not one.summary.endswith(".")
