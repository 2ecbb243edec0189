"""Vision backbones of transformers as experts: the last hidden state as a map, class and register tokens left out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from tove_core.spec import BuildContext, Grid

POOLED_BY_HEAD = frozenset({"siglip_vision_model"})
"""Types of models whose pooling is no argument of the class but a switch of the configuration."""

UNIT_BY_UNIT = frozenset({"hiera"})
"""Types of models whose tokens follow each other mask unit by mask unit, row by row only among their hidden states."""


class HfBackbone(nn.Module):
    """Pixels [B, 3, H, W] to `patches` [B, C, H / stride, W / stride], from `last_hidden_state`.

    A published checkpoint loads although it is of another task: transformers itself converts it, and what it finds no
    place for (classifiers, text towers) is left out. What it lacks is an error.
    """

    def __init__(self, config: Mapping[str, Any], stride: int, *, bgr: bool = False) -> None:
        """Build the model with random weights.

        Args:
            config: what `to_dict` of a configuration gives.
            stride: pixels per position.
            bgr: the model was trained on channels in the order B, G, R.
        """
        super().__init__()
        self.bgr = bgr
        self.unit_by_unit = config.get("model_type") in UNIT_BY_UNIT
        self.trunk = _model(dict(config))
        self.stride = stride
        self.register_load_state_dict_pre_hook(_convert)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the features of the last layer."""
        pixels = pixels.flip(1) if self.bgr else pixels
        if self.unit_by_unit:
            states = self.trunk(pixel_values=pixels, output_hidden_states=True).reshaped_hidden_states
            return {"patches": states[-1].movedim(-1, 1)}
        state = self.trunk(pixel_values=pixels).last_hidden_state
        height, width = pixels.shape[2] // self.stride, pixels.shape[3] // self.stride
        return {"patches": as_map(state, height, width)}


def as_map(state: Tensor, height: int, width: int) -> Tensor:
    """Return [B, C, h, w] from such a map or from tokens [B, P + h * w, C], whose first P stand for no place."""
    if state.ndim == 4:
        return state
    return state[:, state.shape[1] - height * width :].transpose(1, 2).unflatten(2, (height, width))


def _model(config: dict[str, Any]) -> nn.Module:
    kind = config.pop("model_type")
    if kind in POOLED_BY_HEAD:
        config["vision_use_head"] = False
    built = transformers.AutoConfig.for_model(kind, **config)
    known: Any = MODEL_MAPPING[type(built)]
    model = known[0] if isinstance(known, tuple) else known
    # Poolers give one vector per image, which is not used here and which many checkpoints lack.
    takes_pooler = "add_pooling_layer" in inspect.signature(model.__init__).parameters
    return model._from_config(built, dtype=torch.float32, **({"add_pooling_layer": False} if takes_pooler else {}))


def _convert(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Bring a published state to the names of the trunk; one that has them already is left as it is."""
    trunk: Any = module.trunk
    start = f"{prefix}trunk."
    wanted = {f"{start}{key}" for key in trunk.state_dict()}
    mine = {key: value for key, value in state.items() if key.startswith(start)}
    if wanted == mine.keys():
        return
    given = {key.removeprefix(start): value for key, value in mine.items()}
    with _quietly():
        made, found = type(trunk).from_pretrained(
            None, config=trunk.config, state_dict=given, output_loading_info=True, dtype=torch.float32
        )
    for key in mine:
        del state[key]
    missing = set(found["missing_keys"])
    kept = {f"{start}{key}": value for key, value in made.state_dict().items() if key not in missing}
    # What is made here has a pooler, which a checkpoint of the bare model holds too.
    state.update({key: value for key, value in kept.items() if key in wanted})


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from reporting what it left out, which is meant to be left out, and from drawing its bar."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def build(ctx: BuildContext) -> nn.Module:
    """Build the model that option `config` describes; its stride is that of output `patches`."""
    grid = ctx.spec.outputs["patches"]
    stride = grid.stride if isinstance(grid, Grid) else 1
    return HfBackbone(ctx.options["config"], stride, bgr=ctx.options.get("bgr", False))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys to the adapter's."""
    return {f"trunk.{name}": tensor for name, tensor in state.items()}
