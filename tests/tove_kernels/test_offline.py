"""Every Triton kernel is compiled for real architectures, without a GPU, and what it uses is read from machine code."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed on this platform")

from tove_kernels.offline.__main__ import COMPLAINTS
from tove_kernels.offline.cases import MAIN, cases

WANTED = [("sm_90", case.name) for case in cases()] + [(arch, name) for arch in ("sm_80", "sm_100") for name in MAIN]


def run(*command):
    # A process of its own: in one where triton interprets there is nothing to compile, and the driver is stood in for.
    env = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", "TOVE_KERNELS")}
    return subprocess.run(
        [sys.executable, *command], env=env, capture_output=True, text=True, timeout=1200, check=False
    )


@pytest.fixture(scope="module")
def compiled():
    found = {}
    for options in (["sm_90"], ["--main", "sm_80", "sm_100"]):
        done = run("-m", "tove_kernels.offline", *options)
        assert done.returncode in (0, COMPLAINTS), done.stderr[-4000:]
        for line in done.stdout.splitlines():
            row = json.loads(line)
            found.setdefault((row["arch"], row["case"]), []).append(row)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "case"), sorted(WANTED))
def test_no_kernel_spills_and_main_tensors_move_in_128_bits(compiled, arch, case):
    rows = compiled[arch, case]
    assert rows and {row["kernel"]: row["complaints"] for row in rows if row["complaints"]} == {}
    assert all(row["used"]["registers"] > 0 and row["used"]["blocks"] >= 1 for row in rows)
    assert any(row["stores"] > 0 for row in rows)  # something was promised of at least one kernel


def test_mixes_and_both_forms_of_alignment_are_all_compiled(compiled):
    names = {(case.split(",")[0], row["kernel"]) for (_, case), rows in compiled.items() for row in rows}
    assert {name for operator, name in names if operator == "align_tokens"} == {
        "normalise_rows",
        "position_statistics",
        "resample_fold",
        "shrink_rows",
    }
    for operator in ("gated_mix", "gated_activation_mix"):
        assert {"forward", "backward"} <= {name for mine, name in names if mine == operator}


ODD = """
import torch
from tove_kernels.offline.case import Case
from tove_kernels.offline.compile import compile_launches
from tove_kernels.offline.rows import rows
from tove_kernels.align.triton_launch import align_triton

def case(name, channels, size, start):
    maps = torch.empty(2, size, size, channels + start, dtype=torch.bfloat16, device="meta")[..., start:].movedim(3, 1)
    tile = lambda given: (given["BLOCK_T"] * given["BLOCK_C"],) * 2
    launch = lambda: align_triton(maps, (size, size), "position", None, None, 1, torch.bfloat16)
    return Case(name, launch, {"normalise_rows": tile})

for row in rows([case("straight", 256, 24, 0), case("odd", 256, 24, 1)], "sm_90"):
    print(row.case, row.used.loads.get(128, 0), row.complaints)
launch = case("straight", 256, 24, 0).launch
one, = compile_launches(launch, "sm_80")
print(one.name, one.programs, one.constants["C"], one.kernel.metadata.target.arch)
try:
    compile_launches(launch, "sm_1")
except ValueError as error:
    print(error)
"""


def test_rows_that_are_not_aligned_are_found_out_and_an_unknown_architecture_is_refused():
    done = run("-c", ODD)
    straight, odd, compiled, refused = done.stdout.splitlines() or [done.stderr]
    assert straight.endswith(" 4 []")
    assert odd.startswith("odd 0 ") and "0 loads of 128 bits, wanted 4" in odd
    assert compiled == f"normalise_rows {2 * 24 * 24 // 16} 256 80"
    assert refused == "there is no architecture 'sm_1'; wanted one of sm_80, sm_90, sm_100"


def test_nothing_is_compiled_where_triton_interprets():
    code = "from tove_kernels.offline.compile import compile_launches; compile_launches(lambda: None)"
    done = run("-c", f"import os; os.environ['TRITON_INTERPRET'] = '1'; {code}")
    assert done.stderr.splitlines()[-1].startswith(
        "RuntimeError: triton interprets kernels in this process; compile in"
    )


def test_spills_are_a_complaint():
    from tove_kernels.offline.resources import Resources
    from tove_kernels.offline.rows import Row

    used = {"registers": 255, "shared": 0, "warps": 4, "loads": {128: 4}, "stores": {32: 1, 128: 1}, "blocks": 2}
    assert Row("a", "sm_90", "b", Resources(local=0, **used), 4, 1).complaints == []
    assert Row("a", "sm_90", "b", Resources(local=8, **used), 4, 2).complaints == [
        "8 bytes per thread are spilled",
        "1 stores of 128 bits, wanted 2; widths {32: 1, 128: 1}",
    ]


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "blocks"),
    [
        (43, 0, 8, 5),  # 1536 registers a warp, 10 warps from each quarter
        (32, 0, 4, 16),  # 64 warps are the most there are
        (16, 0, 1, 32),  # 32 blocks are
        (168, 1024, 4, 3),
        (120, 0, 2, 8),  # 3840 a warp: 4 from each quarter, where 17 would fit into all of them
        (32, 16 * 1024, 4, 13),  # 17 KiB each of 228
    ],
)
def test_blocks_fit_by_registers_of_a_quarter_warps_blocks_and_shared_memory(registers, shared, warps, blocks):
    from tove_kernels.offline.resources import resident

    assert resident(90, registers, shared, warps) == blocks


def test_an_a100_has_less_shared_memory():
    from tove_kernels.offline.resources import resident

    assert (resident(80, 32, 16 * 1024, 4), resident(100, 32, 16 * 1024, 4)) == (9, 13)
