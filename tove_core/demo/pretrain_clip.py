"""Trains the world's CLIP: an ordinary open_clip model that knows what its captions name, and nothing about depth."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from tove_core.demo.captions import clip_captions, name
from tove_core.demo.layout import COLOURS, KINDS, SIZE, SLOTS
from tove_core.demo.scene import Scenes
from tove_core.demo.tokenizer import CONTEXT, for_clip, save

PATCH = 8
LAYERS = 5
PENULTIMATE = LAYERS - 2
"""Index of the block whose patch tokens tove reads: the last but one."""

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
STEPS = 3000
BATCH = 128
RATE = 1.5e-3
REGION_WEIGHT = 1.0
"""Weight of the region term beside the contrastive loss; without it patch tokens hardly know kinds."""

_SHIFT = 3  # pixels by which training images are moved at most

Report = Callable[[str], None]


def model_config(vocabulary: int) -> dict[str, Any]:
    """Return open_clip's `model_cfg`: OpenAI's form of CLIP, with a class token, made small."""
    vision = {"image_size": SIZE, "patch_size": PATCH, "layers": LAYERS, "width": 96, "head_width": 32}
    text = {"context_length": CONTEXT, "vocab_size": vocabulary, "width": 64, "heads": 2, "layers": 2}
    # A name only makes open_clip read the tokenizer of the folder instead of its own.
    return {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text | {"hf_tokenizer_name": "tove-world"}}


def pretrain(tokenizer: Tokenizer, scenes: Scenes, steps: int = STEPS, report: Report = print, seed: int = 0) -> CLIP:
    """Train a CLIP on `scenes` (at least BATCH) and return it in eval mode.

    The loss is CLIP's, with a wrong caption of each image as a further negative (another kind, or exchanged colours),
    plus a region term: patch tokens of the last-but-one block, pooled over an object, must be nearest to "a <colour>
    <kind>" of that object among all such names. Nothing about depth, centres or contacts enters.
    """
    torch.manual_seed(seed)
    words = for_clip(tokenizer)
    config = model_config(len(words))
    model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, RATE, betas=(0.9, 0.98))
    names = tokens(words, [name(c, k) for c in COLOURS for k in KINDS])
    model.train()
    began = time.monotonic()
    for step, (part, captions) in zip(range(steps), _batches(scenes, words, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * step / steps))
        whole, region = _losses(model, part, captions, names)
        optimizer.zero_grad()
        (whole + REGION_WEIGHT * region).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 100 == 0 or step == steps - 1:
            seconds = time.monotonic() - began
            report(f"clip step {step}: contrastive {whole:.3f}, region {region:.3f}, {seconds:.0f} s")
    return model.eval()


def pixels(image: Tensor) -> Tensor:
    """Return uint8 images [n, 3, H, W] as CLIP wants them: float32, normalised."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return (image.float() / 255 - mean) / std


def tokens(words: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Return the token ids of `texts`, int64 [n, CONTEXT]."""
    encoded = words(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt")
    return torch.as_tensor(encoded["input_ids"])


def coverage(instance: Tensor) -> Tensor:
    """Return how much of each patch each object covers, float32 [n, SLOTS, patches], 0..1."""
    seen = torch.stack([instance == slot + 1 for slot in range(SLOTS)], 1).float()
    return F.avg_pool2d(seen, PATCH).flatten(2)


def export(model: CLIP, tokenizer: Tokenizer, folder: Path) -> None:
    """Write `model` to `folder` as open_clip's `local-dir:` reads it, in float16."""
    words = for_clip(tokenizer)
    save(words, folder)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": model_config(len(words)), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def _batches(scenes: Scenes, words: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[Scenes, Tensor]]:
    """Yield scenes and their captions [BATCH, 3, CONTEXT]; captions are worded anew in each pass."""
    g = torch.Generator().manual_seed(seed)
    turn = 0
    while True:
        texts = clip_captions(scenes, seed=1000 + turn)
        captions = tokens(words, [text for three in texts for text in three]).view(len(scenes), 3, CONTEXT)
        for index in torch.randperm(len(scenes), generator=g).split(BATCH):
            if len(index) == BATCH:
                yield scenes[index], captions[index]
        turn += 1


def _losses(model: CLIP, part: Scenes, captions: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
    image, instance = _varied(pixels(part.image), part.instance)
    out: dict[str, Any] = model.visual.forward_intermediates(image, indices=[PENULTIMATE], output_fmt="NLC")
    features = F.normalize(out["image_features"], dim=-1)
    wrong = captions[torch.arange(len(captions)), torch.randint(1, 3, (len(captions),))]
    texts = model.encode_text(torch.cat([captions[:, 0], wrong, names]), normalize=True)
    right, wrong, named = texts.split([len(captions), len(captions), len(names)])
    scale = model.logit_scale.exp()
    region = _region(model, out["image_intermediates"][0], part, instance, named)
    return _contrastive(features, right, wrong, scale), region


def _varied(image: Tensor, instance: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror a random half of the images and shift all by a few pixels; captions tell no side, so they still hold."""
    mirrored = torch.rand(len(image)) < 0.5
    image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
    instance = torch.where(mirrored[:, None, None], instance.flip(2), instance)[:, None].float()
    top, left = torch.randint(0, 2 * _SHIFT + 1, (2,)).tolist()
    image, instance = (
        F.pad(x, (_SHIFT,) * 4, mode="replicate")[..., top : top + SIZE, left : left + SIZE] for x in (image, instance)
    )
    return image, instance[:, 0]


def _contrastive(features: Tensor, right: Tensor, wrong: Tensor, scale: Tensor) -> Tensor:
    logits = scale * features @ right.T
    own = scale * (features * wrong).sum(-1, keepdim=True)
    target = torch.arange(len(features))
    by_image = F.cross_entropy(torch.cat([logits, own], 1), target)
    return (by_image + F.cross_entropy(logits.T, target)) / 2


def _region(model: CLIP, patches: Tensor, part: Scenes, instance: Tensor, named: Tensor) -> Tensor:
    """Return the region term; `patches` [B, N, D] are weighted by coverage and by chance, so that few count."""
    weight = coverage(instance)
    live = weight.sum(-1) > 0.25
    weight = weight * torch.empty_like(weight).exponential_()
    pooled = torch.einsum("bsn,bnd->bsd", weight, patches)[live] / weight.sum(-1)[live][:, None]
    visual = cast(VisionTransformer, model.visual)
    found = F.normalize(visual.ln_post(pooled) @ visual.proj, dim=-1)
    target = (part.colour * len(KINDS) + part.kind)[live]
    return F.cross_entropy(model.logit_scale.exp() * found @ named.T, target)
