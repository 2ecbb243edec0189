"""The trained parts of a run as one module, on meta to be counted or on a device to be timed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_layers import GradientCheckpointingLayer

from tove_core.config import RunConfig
from tove_core.errors import ConfigError
from tove_core.fusion import Transfer, build_transfer
from tove_core.language.outline import DecoderOutline
from tove_core.planning.run_figures import DataSeen

CLIP = "clip"


class Step(nn.Module):
    """Fusion and language model, run as training runs them.

    Args:
        config: of the run, which has a decoder.
        width: channels D of CLIP's tokens.
        widths: aligned channels of each expert.

    Raises:
        ConfigError, WeightsError: see `DecoderOutline`.
    """

    def __init__(self, config: RunConfig, width: int, widths: Mapping[str, int]) -> None:
        super().__init__()
        model = config.model
        if model.decoder is None:
            raise ConfigError("a run without a decoder cannot be trained; give it one, or leave --train out")
        self.config, self.width, self.widths = config, width, dict(widths)
        own = [one.key for one in model.experts if one.gate == "own"]
        with torch.device("meta"):
            self.fusion: Transfer | None = build_transfer(model.fusion, width, widths, (), own)
        self.decoder = DecoderOutline(model.decoder, width)

    def features(self, batch: int, tokens: int, device: torch.device | str) -> dict[str, Tensor]:
        """Return random features of a batch, those of several images of a sample one after another."""
        wide = {CLIP: self.width} | self.widths
        return {name: torch.randn(batch, tokens, channels, device=device) for name, channels in wide.items()}

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return v'."""
        return features[CLIP] if self.fusion is None else self.fusion(features[CLIP], features).tokens

    def forward(self, features: Mapping[str, Tensor], text: int, answer: int) -> Tensor:
        """Return the loss of texts of so many tokens, the last `answer` of which are predicted."""
        gate = self.config.model.fusion.gate
        if self.fusion is not None and (gate.noise or gate.expert_dropout):
            # What the metrics say of the gate is of its own weights, which are worked out beside the explored ones.
            with torch.no_grad():
                self.fusion.weights(features[CLIP])
        logits = self.decoder(self.fuse(features), text, answer)[:, -answer:].flatten(0, 1).float()
        return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))

    @property
    def trained(self) -> list[nn.Parameter]:
        """What the optimiser steps."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def fill(self, device: torch.device | str) -> Step:
        """Take the module from meta to a device, with numbers drawn at random."""
        self.to_empty(device=device)
        self.decoder.language_model.tie_weights()  # what was one parameter on meta is two until then
        with torch.no_grad():
            for tensor in [*self.parameters(), *self.buffers()]:
                tensor.normal_(0, 0.02) if tensor.is_floating_point() else tensor.zero_()
        return self


def run_flops(step: Step, tokens: int, data: DataSeen) -> int:
    """Return the operations of all steps of a run, counted on meta, backward pass and recomputation included.

    What is counted comes to 3 times the forward pass for what is trained, 2 times for frozen layers that the gradient
    passes through, once more for layers that `training.checkpointing` computes again. The optimiser's own work is
    left out, as all that is done element by element.
    """
    training, gate = step.config.training, step.config.model.fusion.gate
    one, again = sample_flops(step, tokens, data)
    if training.checkpointing:
        one += again
    found = one * training.batch_size * training.steps
    shared = [expert for expert in step.config.model.experts if expert.gate == "shared"]
    gated = step.config.model.fusion.kind == "gate" and gate.activation == "softmax"
    balanced = gated and gate.balance and len(shared) > 1
    if step.fusion is not None and balanced and training.accumulate > 1:
        # The balancing term is of the whole step, whose gates are worked out beforehand.
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            step.fusion.weights(step.features(1, tokens, "meta")[CLIP])
        late = max(0, training.steps - gate.balance_warmup)
        found += counter.get_total_flops() * training.batch_size * late
    return found


def sample_flops(step: Step, tokens: int, data: DataSeen) -> tuple[int, int]:
    """Return the operations of one sample's step on meta, and those of its layers' forward pass alone."""
    features = step.features(1, tokens, "meta")
    with FlopCounterMode(display=False) as counter:
        spans: list[int] = []
        layers = [m for m in step.decoder.language_model.modules() if isinstance(m, GradientCheckpointingLayer)]
        hooks = [m.register_forward_pre_hook(lambda *_: spans.append(-counter.get_total_flops())) for m in layers]
        hooks += [m.register_forward_hook(lambda *_: spans.append(counter.get_total_flops())) for m in layers]
        try:
            loss = step(features, data.text, data.answer)
        finally:
            for hook in hooks:
                hook.remove()
        loss.backward()
    step.zero_grad(set_to_none=True)
    return counter.get_total_flops(), sum(spans)
