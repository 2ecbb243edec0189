"""What `tove doctor --device` tries works on the device."""

from __future__ import annotations

import torch

from tove_core.demo.device_trials import trials


def test_every_trial_passes(device: str) -> None:
    found = list(trials(torch.device(device)))
    assert all(trial.passed for trial in found), [str(trial) for trial in found]
