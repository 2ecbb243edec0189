"""The benchmark counts bytes, refuses wrong answers before it times them, and keeps its rows."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from kernel_bench import alignment, mixes, runner, table, targets, timing, workloads
from kernel_bench.page import measured_files, page
from kernel_bench.plot import plot
from kernel_bench.traffic import activation_bytes, align_bytes, mix_bytes
from kernel_bench.used import Used, read_used, write_used
from kernel_bench.verify import limit, worst_error
from kernel_bench.workload import TOVE_COMPILED, Form

CPU = torch.device("cpu")
TINY = mixes.MixShape(2, 7, 33, 3)
MAPS = [
    alignment.AlignShape(2, 33, 9, 4, norm="position"),
    alignment.AlignShape(2, 5, 3, 4, fold=2),
    alignment.AlignShape(2, 5, 9, 3, layout="NCHW"),
]


def tiny(dtype=torch.float32):
    mixed = [mixes.mix_workload(TINY, dtype, CPU), mixes.activation_workload(TINY, dtype, CPU)]
    return mixed + [alignment.align_workload(shape, dtype, CPU) for shape in MAPS]


def moved(problem, results):
    return sum(t.numel() * t.element_size() for t in (*problem.leaves, *problem.fixed, *results))


def test_forward_bytes_are_those_of_the_tensors_themselves():
    for workload in tiny(torch.bfloat16):
        problem = workload.make(0, CPU)
        assert workload.bytes["forward"] == moved(
            problem, [workload.forms["tove"].compute(problem.leaves, problem.fixed)]
        )


def test_backward_bytes_are_the_gradients_the_logits_the_inputs_and_the_result_s_gradient():
    for workload in tiny(torch.bfloat16)[:2]:
        problem = workload.make(0, CPU)
        # Every leaf is read, and its gradient of the same size written; the tokens of `gated_mix` are not needed.
        leaves = 2 * sum(t.numel() * t.element_size() for t in problem.leaves)
        assert workload.bytes["backward"] == leaves + problem.grad.numel() * 2


def test_the_reference_shape_moves_six_and_nine_tensors():
    tensor = 64 * 577 * 1024 * 2
    found = mix_bytes(64, 577, 1024, 4, 2)
    assert found["forward"] / tensor == pytest.approx(6, rel=3e-3) and found["forward"] > 6 * tensor
    assert found["backward"] / tensor == pytest.approx(9, rel=3e-3) and found["backward"] > 9 * tensor
    assert activation_bytes(64, 577, 1024, 4, 2)["forward"] / tensor == pytest.approx(5, rel=3e-3)
    assert align_bytes(64, 1024, (37, 37), (24, 24), 2, 2)["forward"] == 64 * 1024 * (37**2 + 48**2) * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_form_computes_what_the_operator_does(dtype):
    for workload in tiny(dtype):
        for name, form in workload.forms.items():
            if name.startswith("torch.compile") or name == TOVE_COMPILED:
                continue  # the same function, after a compilation that takes seconds
            for direction in workload.bytes:
                error = worst_error(workload, form, workload.make(0, CPU), direction)
                assert error <= limit(workload, form), (workload.name, name, direction)


def a_run(deadline=math.inf):
    return runner.Run(CPU, 1e9, table.origin(CPU), deadline)


def only(workload, **forms):
    return replace(workload, forms=forms, baseline="right", absent={})


def wrong_value(leaves, fixed):
    return 1.01 * mixes._loop(leaves, fixed)


def wrong_gradient(leaves, fixed):
    out = mixes._loop(leaves, fixed)
    return out.detach() + 0.9 * (out - out.detach())


def not_finite(leaves, fixed):
    return mixes._loop(leaves, fixed) + float("nan")


def broken(leaves, fixed):
    raise ValueError("one sentence\nand more")


def test_a_wrong_form_is_refused_and_a_broken_one_named_while_the_right_one_is_timed():
    forms = {
        name: Form(compute, strict=True)
        for name, compute in {
            "right": mixes._loop,
            "value": wrong_value,
            "gradient": wrong_gradient,
            "nan": not_finite,
            "broken": broken,
        }.items()
    }
    rows = list(runner.measure(only(tiny()[0], **forms), a_run(), rounds=3))
    status = {(row.form, row.direction): row.status.split(":")[0] for row in rows}
    timed = {
        direction: {name for name, way in status if way == direction and status[name, way] == "ok"}
        for _, direction in status
    }
    assert timed == {"forward": {"right", "gradient"}, "backward": {"right"}}
    assert status["broken", "forward"] == "failed" and status["nan", "forward"] == "refused"
    assert all((row.ms_p50 is None) == (row.status != "ok") for row in rows)
    assert next(row for row in rows if row.form == "value").error == pytest.approx(0.01, rel=1e-3)
    assert "one sentence" in next(row for row in rows if row.form == "broken").status


def says_nothing(leaves, fixed):
    raise AssertionError


def test_an_error_without_words_and_inputs_that_do_not_fit_leave_the_other_rows():
    workload = only(tiny()[0], right=Form(mixes._loop), silent=Form(says_nothing))
    rows = list(runner.measure(workload, a_run(), rounds=1))
    assert {row.status for row in rows if row.form == "silent"} == {"failed: AssertionError: "}
    assert {row.status for row in rows if row.form == "right"} == {"ok"}

    def too_large(seed, device):
        raise torch.OutOfMemoryError("no room")

    rows = list(runner.measure(replace(workload, make=too_large), a_run()))
    assert [(row.form, row.direction) for row in rows] == [
        (form, direction) for direction in workload.bytes for form in ("right", "silent")
    ]
    assert {row.status for row in rows} == {"failed: OutOfMemoryError: no room"}


def test_rates_follow_from_bytes_and_times():
    slow = Form(lambda leaves, fixed: (time.sleep(0.02), mixes._loop(leaves, fixed))[1])
    workload = only(tiny()[0], right=Form(mixes._loop), slow=slow)
    rows = [row for row in runner.measure(workload, a_run(), rounds=3) if row.direction == "forward"]
    right, late = rows
    assert right.speedup == 1 and late.ms_least > 20 and late.speedup == pytest.approx(right.ms_least / late.ms_least)
    assert right.gbps == pytest.approx(workload.bytes["forward"] / right.ms_least / 1e6)
    assert right.of_copy == pytest.approx(right.gbps) and right.bytes == workload.bytes["forward"]  # copies: 1 GB/s


def test_after_the_deadline_nothing_is_timed_and_every_row_says_so():
    rows = list(runner.measure(only(tiny()[0], right=Form(mixes._loop)), a_run(deadline=-math.inf), rounds=3))
    assert [row.status.split(";")[0] for row in rows] == ["skipped: the time is up"] * 2


def test_the_gpu_path_measures_small_shapes_under_graphs_too(monkeypatch):
    """Its events and graphs need a GPU; everything around them runs here."""
    seen = []

    def timed(name):
        def call(calls):
            seen.append((name, len(calls)))
            return timing.quantiles([one() is not None for one in calls])

        return call

    properties = SimpleNamespace(L2_cache_size=10_000, total_memory=10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(timing, "cuda_times", timed("events"))
    monkeypatch.setattr(timing, "graph_times", timed("graph"))
    workload = only(tiny()[0], right=Form(mixes._loop), ours=Form(mixes._tove_mix, graphs=False))
    workload = replace(workload, make=lambda seed, device: tiny()[0].make(seed, CPU), absent={"other": "not there"})
    rows = list(runner.measure(workload, replace(a_run(), device=SimpleNamespace(type="cuda"))))
    assert {(row.direction, row.mode) for row in rows} == {
        ("forward", "eager"),
        ("forward", "graph"),
        ("backward", "eager"),
        ("both", "graph"),
    }
    assert [row.form for row in rows if row.mode == "graph"] == ["right", "other"] * 2
    assert {row.status for row in rows} == {"ok", "absent: not there"}
    both = next(row for row in rows if row.direction == "both")
    assert both.bytes == sum(workload.bytes.values()) and both.ms_p50 == 1
    assert {count for _, count in seen} == {timing.rotations(workload.make(0, CPU).bytes, 10_000, 10**9 // 4)}


@pytest.mark.parametrize(
    ("inputs", "free", "sets"),
    [(1000, 10**9, 64), (10**5, 10**9, 21), (10**7, 10**9, 2), (10**5, 10**6, 10), (10**6, 1, 2)],
)
def test_inputs_rotate_past_twice_the_cache_within_the_memory_there_is(inputs, free, sets):
    assert timing.rotations(inputs, 10**6, free) == sets


def test_a_cpus_largest_cache_is_read_and_one_that_is_not_told_is_taken_for_large(tmp_path):
    for index, size in enumerate(["32K", "1024K", "36M"]):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert timing.cpu_cache(tmp_path) == 36 * 2**20
    assert timing.cpu_cache(tmp_path / "none") == timing.UNTOLD


def test_inputs_rotate_on_a_cpu_too(monkeypatch):
    seen = []
    monkeypatch.setattr(timing, "cpu_cache", lambda: 10_000)
    monkeypatch.setattr(timing, "cpu_times", lambda calls, rounds: seen.append(len(calls["right"])) or {})
    workload = only(tiny()[0], right=Form(mixes._loop))
    list(runner.measure(workload, a_run()))
    assert (
        set(seen) == {timing.rotations(workload.make(0, CPU).bytes, 10_000, timing.CPU_MEMORY // 4)} and min(seen) > 1
    )


def test_quantiles_are_those_of_the_samples():
    found = timing.quantiles([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    assert (found.least, found.p20, found.p50, found.p80, found.samples) == (1.0, 2.0, 3.5, 5.0, 6)


def test_the_reference_shapes_come_first_and_quick_takes_two_of_each():
    gpu = SimpleNamespace(type="cuda")
    everything = workloads.workloads(gpu)
    assert [one.operator for one in everything[:3]] == list(workloads.OPERATORS)
    assert everything[0].shape == str(mixes.REFERENCE) and everything[0].dtype == torch.bfloat16
    assert [one.small for one in everything if one.shape == "B=8 N=197 D=768 K=4"] == [True, True]
    assert len(workloads.workloads(gpu, ("align_tokens",), quick=True)) == 2
    assert [one.operator for one in workloads.workloads(CPU)] == list(workloads.OPERATORS)


def some_rows():
    forms = {"right": Form(mixes._loop), "value": Form(wrong_value, strict=True)}
    return list(runner.measure(replace(only(tiny()[0], **forms), absent={"other": "not, there"}), a_run(), rounds=3))


def test_rows_survive_the_csv_file(tmp_path):
    rows = some_rows()
    table.write(tmp_path / "deep" / "rows.csv", rows)
    again = table.read(tmp_path / "deep" / "rows.csv")
    assert len(again) == len(rows) == 6
    for one, other in zip(rows, again, strict=True):
        for name, value in vars(one).items():
            got = getattr(other, name)
            assert got == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), name


def test_a_file_of_other_columns_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("operator,shape\na,b\n")
    with pytest.raises(ValueError, match="has columns \\['operator', 'shape'\\]; wanted"):
        table.read(tmp_path / "rows.csv")


def test_the_table_of_compiled_kernels_survives_its_file(tmp_path):
    rows = [Used("a, b", "sm_90", "forward", 43, 0, 16, 8, "10x128 2x32", "", 0.625)]
    write_used(tmp_path / "used.csv", rows)
    assert read_used(tmp_path / "used.csv") == rows


def test_the_page_tells_figures_refusals_absences_and_that_no_gpu_was_there():
    used = [Used("gated_mix", "sm_90", "forward", 43, 0, 16, 8, "10x128", "2x128", 0.625)]
    text = page(some_rows(), used)
    assert "There is no GPU figure yet" in text and "| value | refused: error" in text
    assert "| other | absent: not, there |" in text and "| gated_mix | `forward` | 43 | 0 |" in text
    assert "- not measured: gated_mix forward within 10 %" in text
    on_gpu = [replace(row, device="A GPU") for row in some_rows()]
    assert "no GPU figure" not in page(on_gpu, used) and "A GPU, torch" in page(on_gpu, used)


def test_the_page_in_the_docs_is_what_its_tables_make():
    folder = Path(__file__).parents[2] / "docs" / "benchmarks"
    rows = [row for path in measured_files(folder) for row in table.read(path)]
    assert (folder / "kernels.md").read_text() == page(rows, read_used(folder / "kernels-resources.csv"))
    assert (folder / "kernels.svg").read_text() == plot(rows)


def test_the_plot_has_a_bar_for_every_time():
    rows = some_rows()
    found = ElementTree.fromstring(plot(rows))
    bars = [one for one in found.iter("{http://www.w3.org/2000/svg}rect") if one.get("x")]
    assert len(bars) == sum(row.ms_p50 is not None for row in rows) > 0
    widths = [float(one.get("width", 0)) for one in bars]
    assert widths.index(max(widths)) == max(range(len(bars)), key=lambda i: [r.of_copy for r in rows if r.of_copy][i])


def row_of(form="tove", **changes):
    base = table.Row(
        "gated_mix", str(mixes.REFERENCE), "bfloat16", "forward", "eager", form, "ok", 0.0, 1, 1.0, 1.0, 1.0, 1.0, 20,
        1.0, 0.95, 5.5, "GPU", 1, "", "", "", "", "",
    )  # fmt: skip
    return replace(base, **changes)


@pytest.mark.parametrize(("share", "speedup", "wanted"), [(0.93, 5.1, [True, True]), (0.91, 4.9, [False, False])])
def test_targets_on_a_gpu_are_compared_with_the_row_of_their_name(share, speedup, wanted):
    rows = [row_of(of_copy=share, speedup=speedup), row_of("eager loop, fp32 gates", of_copy=2.0, speedup=9.0)]
    found = {verdict.target: verdict.reached for verdict in targets.verdicts(rows, "cuda")}
    assert found[f"gated_mix forward at 0.92 of the copy rate, {mixes.REFERENCE}"] is wanted[0]
    assert found["gated_mix forward 5 times the eager loop with fp32 gates"] is wanted[1]
    assert found[f"gated_mix backward at 0.88 of the copy rate, {mixes.REFERENCE}"] is None


@pytest.mark.parametrize(("ours", "reached"), [(1.02, True), (1.04, False)])
def test_the_fastest_compiled_form_is_what_counts(ours, reached):
    rows = [row_of(ms_p50=ours), row_of("torch.compile of the stack"), row_of("torch.compile of the loop", ms_p50=3.0)]
    found = [v for v in targets.verdicts(rows, "cuda") if "fastest torch.compile" in v.target]
    assert [verdict.reached for verdict in found] == [reached]
    assert str(found[0]).startswith("pass" if reached else "FAIL")


@pytest.mark.parametrize("status", ["refused: error 1e-2", "failed: OutOfResources: shared memory"])
def test_a_form_of_ours_that_is_wrong_misses_its_targets(status):
    wrong = {"status": status, "ms_least": None, "ms_p50": None, "of_copy": None, "speedup": None}
    found = [verdict for verdict in targets.verdicts([row_of(**wrong)], "cuda") if verdict.seen == status]
    assert len(found) == 3 and {verdict.reached for verdict in found} == {False}
    late = targets.verdicts([row_of(**wrong | {"status": "skipped: the time is up"})], "cuda")
    assert {verdict.reached for verdict in late} == {None}
    on_cpu = targets.verdicts([row_of(shape=str(mixes.ON_CPU), **wrong)], "cpu")
    assert [verdict.reached for verdict in on_cpu] == [False, None, False]


def test_each_gpu_is_judged_and_told_by_itself():
    rows = [row_of(device="fast", of_copy=0.95, ms_p50=1.0), row_of(device="slow", of_copy=0.80, ms_p50=4.0)]
    rows.append(row_of("torch.compile of the loop", device="slow", ms_p50=4.0))
    found = {verdict.target: verdict.reached for verdict in targets.verdicts(rows, "cuda")}
    share = f"gated_mix forward at 0.92 of the copy rate, {mixes.REFERENCE}"
    assert (found[f"{share}, on fast"], found[f"{share}, on slow"]) == (True, False)
    compiled = f"gated_mix forward at most 3 % slower than the fastest torch.compile, {mixes.REFERENCE}"
    assert (found[f"{compiled}, on fast"], found[f"{compiled}, on slow"]) == (None, True)
    text = page(rows, [])
    assert "## On a GPU: fast" in text and "## On a GPU: slow" in text and text.count("gated_mix forward at 0.92") == 2


def test_alignment_that_is_as_short_as_its_launch_is_judged_under_replay():
    shape = str(alignment.SHAPES[-1])
    rows = [row_of(operator="align_tokens", shape=shape, of_copy=0.5, speedup=4.0)]
    found = [v.reached for v in targets.verdicts(rows, "cuda") if v.target.startswith("align_tokens at 0.85")]
    rows.append(row_of(operator="align_tokens", shape=shape, mode="graph", of_copy=0.9))
    replayed = [v.reached for v in targets.verdicts(rows, "cuda") if v.target.startswith("align_tokens at 0.85")]
    assert (found, replayed) == ([False], [True])


def test_cpu_targets_are_of_least_times():
    def cpu(form, least):
        return row_of(form, shape=str(mixes.ON_CPU), ms_least=least, ms_p50=99.0)

    rows = [cpu("tove", 1.05), cpu("torch.compile of the loop", 1.0), cpu("eager loop, fp32 gates", 2.0)]
    assert [verdict.reached for verdict in targets.verdicts(rows, "cpu")] == [True, None, False]
    rows.append(cpu("tove, TOVE_KERNELS=compiled", 1.11))
    assert [verdict.reached for verdict in targets.verdicts(rows, "cpu")] == [True, False, False]
