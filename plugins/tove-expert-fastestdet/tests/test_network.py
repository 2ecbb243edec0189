"""The network and its weights, compared with the ONNX file that the detector's authors published."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from tove_expert_fastestdet.network import FastestDet

from tove_core.hub.digest import sha256

HERE = Path(__file__).parent
PTH = "fastestdet_coco80_ap05_0.253_280epoch.pth"


@pytest.fixture(scope="module")
def script():
    found = importlib.util.spec_from_file_location("convert_fastestdet", HERE.parent / "scripts" / "convert.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_raw_outputs_agree_with_the_published_onnx_twin(expert, seed):
    session = onnxruntime.InferenceSession(HERE / "data" / "FastestDet.onnx", providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 11 * (seed + 1), 11, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, (352, 352), mode="bicubic").clamp(0, 1)  # noise alone sees nothing
    (wanted,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    with torch.no_grad():
        found = expert.module.network(pixels).numpy()
    assert found.shape == wanted.shape == (1, 85, 22, 22)
    # Its batch norms are folded into the convolutions, ours are not: float32 rounds differently.
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.1 and np.ptp(wanted[:, 0]) > 0.01


@pytest.mark.parametrize("size", [(352, 352), (64, 160), (32, 96)])
def test_positions_are_sixteen_pixels_apart_and_labels_a_distribution(size):
    network = FastestDet(7).eval()
    with torch.no_grad():
        raw = network(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert raw.shape == (2, 12, size[0] // 16, size[1] // 16)
    torch.testing.assert_close(raw[:, 5:].sum(1), torch.ones(2, size[0] // 16, size[1] // 16))
    assert raw[:, 0].min() >= 0 and raw[:, 0].max() <= 1


def test_every_parameter_of_the_network_gets_a_gradient():
    network = FastestDet(3).train()
    network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    # Batch norm takes the mean away, so that what comes before it has no slope along its own scale; none is unused.
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.shared_data
def test_the_shipped_file_is_the_published_one_converted(data, script, expert, tmp_path):
    state = torch.load(data("weights/fastestdet") / PTH, map_location="cpu", weights_only=True)
    save_file(script.convert(state), tmp_path / "it.safetensors")
    assert sha256(tmp_path / "it.safetensors") == expert.spec.weights.sha256


def test_tensors_that_are_not_the_detectors_are_refused(script):
    for name in ("backbone.stage2.0.branch_main.2.weight", "SPP.S1.5.weight", "head.weight", "backbone.first_conv.0"):
        with pytest.raises(ValueError, match="is no tensor of FastestDet"):
            script.rename(name)
