"""Write the published FastestDet weights (a .pth file) as the safetensors file this plugin ships.

`python scripts/convert.py WEIGHTS.pth OUT.safetensors`; the same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tove_expert_fastestdet.labels import COCO
from tove_expert_fastestdet.network import FastestDet

# Published names number the layers of a flat sequence, activations included; ours are a convolution and its norm each.
_PLACES = (
    (r"backbone\.first_conv\.([01])", {"0": "stem.0", "1": "stem.1"}),
    (r"backbone\.stage([234])\.(\d+)\.branch_main\.([0-6])",
     {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "5": "2.0", "6": "2.1"}),
    (r"backbone\.stage([234])\.(\d+)\.branch_proj\.([0-3])", {"0": "0.0", "1": "0.1", "2": "1.0", "3": "1.1"}),
    (r"SPP\.Conv1x1\.conv1x1\.([01])", {"0": "reduce.0", "1": "reduce.1"}),
    (r"SPP\.S([123])\.([0-7])", {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2.0", "7": "2.1"}),
    (r"SPP\.output\.([01])", {"0": "merge.0", "1": "merge.1"}),
    (r"detect_head\.conv1x1\.conv1x1\.([01])", {"0": "neck.0", "1": "neck.1"}),
    (r"detect_head\.(obj|reg|cls)_layers\.conv5x5\.([0-4])", {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1"}),
)  # fmt: skip
_HEADS = {"obj": "objectness", "reg": "box", "cls": "label"}


def rename(name: str) -> str:
    """Return our name of a published tensor.

    Raises:
        ValueError: it is not one of FastestDet's.
    """
    for pattern, layers in _PLACES:
        found = re.match(pattern + r"\.(\w+)$", name)
        if found is None:
            continue
        *place, layer, last = found.groups()
        if layer not in layers:
            break
        if name.startswith("backbone.stage"):
            stage, block = place
            branch = "main" if "branch_main" in name else "proj"
            prefix = f"stages.{int(stage) - 2}.{block}.{branch}."
        elif name.startswith("SPP.S"):
            prefix = f"pyramid.{int(place[0]) - 1}."
        else:
            prefix = f"{_HEADS[place[0]]}." if place else ""
        return f"network.{prefix}{layers[layer]}.{last}"
    raise ValueError(f"{name!r} is no tensor of FastestDet; give its published weights")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the published tensors under our names, checked to be exactly those of the network."""
    renamed = {rename(name): tensor.contiguous() for name, tensor in state.items()}
    network = FastestDet(len(COCO))
    network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in renamed.items()})
    return renamed


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    state = torch.load(given.weights, map_location="cpu", weights_only=True)
    save_file(convert(state), given.out)


if __name__ == "__main__":
    main()
