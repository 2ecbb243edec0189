"""A model's features in a cache on disk: what each is computed from, building the cache, reading it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tove_core import plugins
from tove_core.data.cache.build import Builder, BuildReport, Estimate, Progress
from tove_core.data.cache.care import remove
from tove_core.data.cache.codec import CacheDtype
from tove_core.data.cache.folder import SOURCE, FeatureCache
from tove_core.data.cache.table import CachedFeatures, open_features
from tove_core.data.fingerprint import FeatureFingerprint
from tove_core.data.sample import Sample, distinct_images
from tove_core.errors import DataError
from tove_core.fusion.align import Align, gives_text
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.images import read_image
from tove_core.in_process import IN_PROCESS, code_digest
from tove_core.model import CLIP, ToveModel
from tove_core.tower.text import text_fingerprint

LIBRARIES = ("tove-core", "torch", "timm", "transformers", "open_clip_torch", "pillow")
OURS = "tove-core"
HASHED = ("weights", "text", "code")
"""What takes reading all of a frozen part to know, and does not change while it is in use."""


def feature_fingerprints(model: ToveModel, *, hashed: bool = True) -> list[FeatureFingerprint]:
    """Return what CLIP's tokens and each active expert's u_k are computed from.

    Weights are hashed as they are loaded, so that folders can move, random weights are told apart, and precision
    counts. The version of a plugin counts; that of tove itself and of other libraries is told alone. Where an expert
    runs does not count: device, offloading and micro-batches change no more than rounding.

    Args:
        hashed: with `HASHED`.
    """
    return [_clip(model, hashed), *(_expert(model, key, hashed) for key in model.active_experts)]


def open_cache(model: ToveModel, samples: Sequence[Sample], folder: Path, source: str = SOURCE) -> CachedFeatures:
    """Return the features of the samples' distinct images, in the order of `distinct_images`, from a cache.

    Args:
        source: what would compute them; see `FeatureCache`.

    Raises:
        DataError: see `open_features`.
    """
    return open_features(folder, feature_fingerprints(model), distinct_images(samples)[0], source)


def cache_builder(
    model: ToveModel,
    samples: Sequence[Sample],
    folder: Path,
    *,
    dtypes: Mapping[str, CacheDtype] | None = None,
    default: CacheDtype = "float16",
    rank: int = 0,
    world: int = 1,
    dry: bool = False,
    **limits: float,
) -> Builder:
    """Return what computes the features that a cache lacks of the samples' images; `build_cache` runs it.

    Args:
        model: calibrated.
        samples: whose distinct images are meant.
        folder: of the cache; made where it is not there.
        dtypes: what is kept, by feature.
        default: what is kept of the others.
        rank, world: this process takes every `world`-th image.
        dry: only for an estimate: nothing is written, and the folder need not be writable, or there.
        limits: `shard_bytes` and `shard_seconds` of `Writer`.

    Raises:
        DataError: the folder cannot be written, or `dtypes` names what is no feature of the model.
    """
    wanted = feature_fingerprints(model)
    own: dict[str, CacheDtype] = dict(dtypes or {})
    if unknown := sorted(own.keys() - {one.name for one in wanted}):
        raise DataError(f"a dtype is given for {unknown}; this model has {', '.join(one.name for one in wanted)}")
    cache = FeatureCache(folder)
    stores_of = cache.planned if dry else cache.find_or_create
    stores = {one.name: stores_of(one, own.get(one.name, default)) for one in wanted}
    if rank == 0 and not dry:
        remove(cache.leftovers())
    images = distinct_images(samples)[0][rank::world]
    return Builder(folder, stores, images, **limits)  # type: ignore[arg-type]  # int and float


def build_cache(
    model: ToveModel, builder: Builder, *, batch_size: int = 64, progress: Progress | None = None
) -> BuildReport:
    """Compute and store what is missing.

    Raises:
        DataError: see `Builder.run`.
    """

    def encode(pixels: Sequence[Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
        return model.encode(list(pixels), only=names)

    return builder.run(encode, read_image, batch_size=batch_size, progress=progress)


def estimate(builder: Builder, world: int = 1) -> Estimate:
    """Return what is left to do, after seeing that the disk has room for it.

    Raises:
        DataError: it has not.
    """
    found = builder.estimate(world)
    if not found.fits:
        builder.look()  # images that were moved may be there
        found = builder.estimate(world)
    found.require_room(builder.folder)
    return found


def _clip(model: ToveModel, hashed: bool) -> FeatureFingerprint:
    tower = model.tower
    decides: dict[str, object] = {
        "view": model.config.view,
        "grid": tower.grid,
        "input": tower.input.model_dump(mode="json"),
        "block": tower.block,
        # Files of one CLIP are read by two libraries, and with one activation or another.
        "reader": type(tower).__name__,
        "activation": str(tower.activation),
    }
    if hashed:
        decides["weights"] = _kept(tower, "weights", tower.vision, lambda: _weights(tower.vision))
    return FeatureFingerprint(CLIP, (tower.tokens, tower.width), decides, versions=_versions())


def _expert(model: ToveModel, key: str, hashed: bool) -> FeatureFingerprint:
    expert, align = cast(FrozenExpert, model.experts[key]), cast(Align, model.align[key])
    spec, origin = expert.spec, model.provenance.experts[key]
    decides: dict[str, object] = {
        "view": model.config.view,
        "grid": model.tower.grid,
        "expert": origin.name,
        "variant": origin.variant,
        "distribution": origin.distribution,
        "input": spec.input.model_dump(mode="json"),
        "outputs": {name: output.model_dump(mode="json") for name, output in spec.outputs.items()},
        "options": spec.options,
    }
    if origin.distribution != OURS:
        # What is installed computes, which need not be the version a checkpoint was recorded with.
        decides["version"] = plugins.registry().find(origin.reference).source.version
    if hashed:
        decides["weights"] = _kept(expert.module, "weights", expert.module, lambda: _weights(expert.module))
    if hashed and origin.distribution == IN_PROCESS:
        decides["code"] = code_digest(spec, expert)
    if hashed and gives_text(spec):
        decides["text"] = _kept(model.tower, "text", model.tower, lambda: text_fingerprint(model.tower))
    shape = (model.tower.tokens, align.width)
    return FeatureFingerprint(key, shape, decides, _statistics(align), _versions())


def _statistics(align: Align) -> dict[str, dict[str, list[float]]]:
    measured: dict[str, dict[str, list[float]]] = {}
    for name, buffer in align.named_buffers():
        output, _, what = name.rpartition("-")
        measured.setdefault(output, {})[what] = buffer.tolist()
    return measured


_KNOWN: WeakKeyDictionary[nn.Module, dict[str, tuple[object, str]]] = WeakKeyDictionary()


def _kept(owner: nn.Module, what: str, module: nn.Module, hashed: Callable[[], str]) -> str:
    """Return a hash of a module's tensors; while none is changed or replaced they are read once.

    Args:
        owner: what the hash is kept for; `module` may be put together anew for every call.
        what: names the hash among those of `owner`.
    """
    tensors = [*module.parameters(), *module.buffers()]
    stamp = [(t.data_ptr(), t.dtype, t.shape, None if t.is_inference() else t._version) for t in tensors]
    kept = _KNOWN.setdefault(owner, {})
    if what not in kept or kept[what][0] != stamp:
        kept[what] = stamp, hashed()
    return kept[what][1]


def _weights(module: nn.Module) -> str:
    """Return a sha256 (hex) of parameters and buffers with their names, shapes and precision."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()], key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return dict(_imported())


@cache  # reading a package's description takes milliseconds, and what is imported stays what it is
def _imported() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
