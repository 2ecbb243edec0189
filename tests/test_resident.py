from __future__ import annotations

import subprocess
import sys

import pytest

from tove_core.resident import peak_resident

FEW = "from tove_core.resident import peak_resident; print(peak_resident())"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say")
def test_the_peak_grows_with_what_is_touched_and_does_not_shrink_again():
    before = peak_resident()
    held = bytearray(b"x" * (before + 30_000_000))
    after = peak_resident()
    assert after >= before + 30_000_000
    del held
    assert peak_resident() >= after


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage is all there is")
def test_a_process_does_not_begin_with_the_peak_of_the_one_that_started_it():
    held = bytearray(b"x" * 400_000_000)
    told = subprocess.run([sys.executable, "-c", FEW], capture_output=True, text=True, check=True).stdout
    assert 1_000_000 < int(told) < 200_000_000 < len(held)
