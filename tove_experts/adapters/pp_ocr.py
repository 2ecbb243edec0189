"""PP-OCRv5 of transformers as an expert: a detector finds lines of text, a reader says what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align
from transformers import (
    PPLCNetV3Config,
    PPOCRV5MobileDetConfig,
    PPOCRV5MobileDetForObjectDetection,
    PPOCRV5MobileRecConfig,
    PPOCRV5MobileRecForTextRecognition,
)

from tove_core import RegionBatch
from tove_core.spec import BuildContext, Regions
from tove_experts.adapters.text_lines import Lines, find_lines

HEIGHT = 48
"""Rows of a line as the reader sees it."""

NARROWEST, WIDEST, STEP = 320, 960, 64
"""Columns: lines are padded to the narrowest or to whole steps, and squeezed where they are wider than the widest."""

UPRIGHT = 1.5
"""Lines this many times as high as wide are read from top to bottom, turned by a quarter."""

AT_ONCE = 32
BACKBONE = {"scale": 0.75, "divisor": 16, "out_features": ["stage2", "stage3", "stage4", "stage5"]}


class PpOcr(nn.Module):
    """Pixels [B, 3, H, W] to `lines`: boxes, what they say, and the product of both networks' confidences."""

    def __init__(self, ctx: BuildContext) -> None:
        super().__init__()
        options, output = ctx.options, ctx.spec.outputs["lines"]
        self.detector = PPOCRV5MobileDetForObjectDetection(_config(PPOCRV5MobileDetConfig, options["detector"]))
        self.reader = PPOCRV5MobileRecForTextRecognition(_config(PPOCRV5MobileRecConfig, options["reader"]))
        self.limit = output.limit if isinstance(output, Regions) else 0
        self.threshold, self.box_threshold = float(options["threshold"]), float(options["box_threshold"])
        self.unclip = float(options["unclip"])
        self.mean, self.std = ctx.spec.input.mean, ctx.spec.input.std

    def forward(self, pixels: Tensor) -> dict[str, RegionBatch]:
        """Return the lines of text, those of which no character was read left out."""
        # The detector was trained on BGR.
        map_ = self.detector(pixel_values=pixels.flip(1)).last_hidden_state[:, 0].float()
        lines = find_lines(
            map_,
            limit=self.limit,
            threshold=self.threshold,
            box_threshold=self.box_threshold,
            unclip=self.unclip,
        )
        text, sure = self.read(self._as_read(pixels), lines)
        size = lines.boxes.new_tensor([pixels.shape[3], pixels.shape[2]] * 2)
        found = RegionBatch(
            boxes=(lines.boxes / size).clamp(0, 1),
            scores=(lines.scores * sure).clamp(0, 1),
            valid=lines.valid & (sure > 0),
            text=text,
        )
        return {"lines": found}

    def _as_read(self, pixels: Tensor) -> Tensor:
        """Return pixels as the reader wants them: RGB from -1 to 1."""
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((pixels * std + mean) * 2 - 1).float()

    def read(self, pixels: Tensor, lines: Lines) -> tuple[list[list[str]], Tensor]:
        """Return what each line says (empty: nothing), and how sure the reader is of it [B, R]."""
        text = [[""] * lines.boxes.shape[1] for _ in range(len(pixels))]
        sure = torch.zeros_like(lines.scores)
        places = lines.valid.nonzero()
        boxes = lines.boxes[lines.valid]
        sides = boxes[:, 2:] - boxes[:, :2]
        turned = sides[:, 1] >= UPRIGHT * sides[:, 0]
        ratio = torch.where(turned, sides[:, 1] / sides[:, 0], sides[:, 0] / sides[:, 1])
        wide = (ratio * HEIGHT).ceil().clamp(1, WIDEST)
        padded = (((wide - NARROWEST) / STEP).ceil().clamp(min=0) * STEP + NARROWEST).long()
        for columns in padded.unique().tolist():
            for quarter in (False, True):
                chosen = ((padded == columns) & (turned == quarter)).nonzero()[:, 0]
                for part in chosen.split(AT_ONCE) if len(chosen) else ():
                    crops = cut(pixels, places[part, 0], boxes[part], wide[part], columns, turned=quarter)
                    out = self.reader(pixel_values=crops.to(next(self.reader.parameters()).dtype))
                    words, confidence = decode(out.last_hidden_state.float())
                    for (image, slot), word in zip(places[part].tolist(), words, strict=True):
                        text[image][slot] = word
                    sure[places[part, 0], places[part, 1]] = confidence
        return text, sure


def cut(pixels: Tensor, images: Tensor, boxes: Tensor, wide: Tensor, columns: int, *, turned: bool) -> Tensor:
    """Return lines [K, 3, 48, columns], resampled to `wide` columns each and zero to the right of them.

    Args:
        pixels: [B, 3, H, W].
        images: [K], which image each line is in.
        boxes: [K, 4] in pixels.
        wide: [K], columns that the line itself takes.
        columns: of the result.
        turned: the lines run from top to bottom.
    """
    # A box drawn out to the full width is sampled where the line itself would be; the rest is blanked.
    stretched = boxes.clone()
    start, end = (1, 3) if turned else (0, 2)
    stretched[:, end] = boxes[:, start] + (boxes[:, end] - boxes[:, start]) * columns / wide
    shape = (columns, HEIGHT) if turned else (HEIGHT, columns)
    crops = roi_align(pixels, torch.cat([images[:, None].to(boxes), stretched], 1), shape, aligned=True)
    crops = crops.rot90(1, (2, 3)) if turned else crops
    inside = torch.arange(columns, device=pixels.device) < wide[:, None]
    return crops * inside[:, None, None]


def decode(probabilities: Tensor) -> tuple[list[str], Tensor]:
    """Return the best text of each line and the mean probability of its characters, from [K, T, characters].

    Connectionist temporal classification: repeated characters are one, and the first of all characters is a blank.
    """
    best, index = probabilities.max(-1)
    kept = index != 0
    kept[:, 1:] &= index[:, 1:] != index[:, :-1]
    known = characters(probabilities.shape[-1])
    # The blank says nothing, so what is not kept may be one.
    numbers: list[list[int]] = torch.where(kept, index, 0).tolist()
    words = ["".join(known[number] for number in row) for row in numbers]
    return words, (best * kept).sum(1) / kept.sum(1).clamp(min=1)


@cache
def characters(count: int) -> Sequence[str]:
    """Return the reader's characters: a blank, PP-OCRv5's dictionary, a space; the first `count` of them."""
    lines = (Path(__file__).parent / "pp_ocrv5.txt").read_bytes().decode("utf-8").split("\n")[:-1]
    return ("", *lines, " ")[:count]


def build(ctx: BuildContext) -> nn.Module:
    """Build both networks; options `detector` and `reader` hold what deviates from their configurations."""
    return PpOcr(ctx)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the detector's keys beside the reader's; files leave out how many batches normalisation had seen."""
    converted = {key if key.startswith("reader.") else f"detector.{key}": tensor for key, tensor in state.items()}
    for key in list(converted):
        if key.endswith(".running_mean"):
            counter = key.removesuffix("running_mean") + "num_batches_tracked"
            converted.setdefault(counter, torch.zeros((), dtype=torch.long))
    return converted


def _config(kind: Any, options: Mapping[str, Any]) -> Any:
    given = dict(options)
    backbone = PPLCNetV3Config(**BACKBONE | given.pop("backbone_config", {}))
    return kind(backbone_config=backbone, **given)
