"""OWLv2 of transformers as an expert: boxes of a fixed list of names, which its own text tower embeds once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Owlv2Config, Owlv2ForObjectDetection

from tove_core import RegionBatch
from tove_core.spec import BuildContext, Regions
from tove_experts.adapters.ranking import best_regions


class Owlv2(nn.Module):
    """Pixels [B, 3, H, W] to `objects`.

    Queries are tokenised by open_clip, which has the byte pairs of OWLv2's CLIP and needs no file for them.
    """

    def __init__(self, config: Owlv2Config, names: Sequence[str], prompt: str, *, limit: int, threshold: float) -> None:
        super().__init__()
        self.model = Owlv2ForObjectDetection(config)
        self.names = list(names)
        self.limit, self.threshold = limit, threshold
        text: Any = config.text_config
        tokenizer = SimpleTokenizer(context_length=text.max_position_embeddings)
        self.register_buffer("ids", tokenizer([prompt.format(name) for name in names]), persistent=False)
        self._embedded: list[Tensor] = []
        self.register_load_state_dict_post_hook(lambda module, _: module.forget())

    def forget(self) -> None:
        """Embed the queries again at the next call."""
        self._embedded.clear()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.forget()  # parameters are about to move or change their precision
        return super()._apply(fn, recurse)

    def queries(self) -> Tensor:
        """Return the embedded names [L, E], unit length."""
        if not self._embedded:
            ids: Any = self.ids
            out = self.model.owlv2.text_model(input_ids=ids, attention_mask=(ids != 0).long())
            self._embedded.append(F.normalize(self.model.owlv2.text_projection(out.pooler_output), dim=-1))
        return self._embedded[0]

    def forward(self, pixels: Tensor) -> dict[str, RegionBatch]:
        """Return the best boxes, each under its best name."""
        model: Any = self.model  # whose annotations say less than it returns
        features, _ = model.image_embedder(pixel_values=pixels)
        tokens = features.flatten(1, 2)
        boxes = model.box_predictor(tokens, features)
        logits, _ = model.class_predictor(tokens, self.queries().expand(len(pixels), -1, -1))
        found = best_regions(boxes, logits.float().sigmoid(), self.names, limit=self.limit, threshold=self.threshold)
        return {"objects": found}


def build(ctx: BuildContext) -> nn.Module:
    """Build OWLv2; options: `config` (what deviates from `Owlv2Config`), `queries`, `prompt`, `threshold`."""
    options, output = ctx.options, ctx.spec.outputs["objects"]
    limit = output.limit if isinstance(output, Regions) else 0
    return Owlv2(
        Owlv2Config(**options["config"]),
        options["queries"],
        options["prompt"],
        limit=limit,
        threshold=float(options["threshold"]),
    )


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put published keys under the adapter's; tables of position numbers, which older files hold, are left out."""
    return {f"model.{key}": tensor for key, tensor in state.items() if not key.endswith(".position_ids")}
