"""Build a model from names: resolve the experts, load and freeze every part, put the fusion and decoder on top."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from tove_core import plugins
from tove_core.checks import path_given, seed_given
from tove_core.config import ClipConfig, DecoderConfig, ExpertConfig, FusionConfig, ModelConfig
from tove_core.errors import ConfigError, WeightsError
from tove_core.fusion import build_transfer
from tove_core.fusion.align import aligned_width
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.isolation import building, drawn_from
from tove_core.hub.load import load_expert
from tove_core.hub.parts import at_commits, commits_of
from tove_core.hub.placement import Placement, usable_device
from tove_core.hub.reference import package_path
from tove_core.hub.weights import read_safetensors
from tove_core.language.base import Decoder
from tove_core.language.load import load_decoder
from tove_core.licenses import LicensePolicy, check_licenses, combined
from tove_core.model import ToveModel
from tove_core.places import absolute, with_absolute_member, with_absolute_places
from tove_core.provenance import ExpertProvenance, Origin, PartProvenance, Provenance
from tove_core.recall import find_again, same_weights
from tove_core.settings import describe
from tove_core.spec import ExpertSpec
from tove_core.tower.base import Tower
from tove_core.tower.load import load_tower
from tove_core.tower.text import TextVectors

T = TypeVar("T", bound=BaseModel)
WeightsChoice = Literal["pinned", "random"] | Path
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build(
    experts: Sequence[str | ExpertConfig | Mapping[str, Any]] = (),
    *,
    clip: str | ClipConfig | Mapping[str, Any] = ClipConfig(),  # noqa: B008  # frozen
    decoder: str | DecoderConfig | Mapping[str, Any] | None = DecoderConfig(),  # noqa: B008  # frozen
    fusion: str | FusionConfig | Mapping[str, Any] = FusionConfig(),  # noqa: B008  # frozen
    view: Literal["squash", "crop", "pad"] = "squash",
    licenses: Literal["commercial", "strict"] | LicensePolicy | Mapping[str, Any] | None = None,
    weights: WeightsChoice | str = "pinned",
    device: str | torch.device | None = None,
    seed: int = 0,
) -> ToveModel:
    """Build a model: a frozen CLIP, frozen experts, a fusion, and a language model that reads the enhanced tokens.

    Args:
        experts: names as `tove experts list` shows them; `name:variant` and `distribution/name` work too.
        clip: see `ClipConfig.name`.
        decoder: hub id or folder of a causal language model; None: enhanced tokens only.
        fusion: a kind (`gate`, `uniform`, `concat`, `clip-mlp`) or a whole configuration.
        view: which region of an image is seen.
        licenses: which weights may be used, checked before anything is downloaded; None: all.
        weights: `pinned`: as the specs say; `random`: architectures with seeded random weights;
            a folder: the experts' weights are taken from it.
        device: where CLIP, the fusion and the decoder run; None: the CPU.
        seed: of everything that starts random.

    Returns:
        A model in evaluation mode whose frozen parts need no gradient.

    Raises:
        LicenseError: `licenses` does not admit an expert.
        ToveError: a name is unknown, weights are missing or differ from what is recorded, or options contradict.
    """
    config = model_config(experts, clip=clip, decoder=decoder, fusion=fusion, view=view, licenses=licenses)
    return assemble(config, weights=weights, device=device, seed=seed)


def model_config(
    experts: Sequence[str | ExpertConfig | Mapping[str, Any]], *, clip: Any, decoder: Any, fusion: Any, **more: Any
) -> ModelConfig:
    """Return the configuration that arguments of `build` stand for.

    Raises:
        ConfigError: an argument is of no form that `build` takes.
    """
    if isinstance(experts, str):
        raise ConfigError(f"experts is the text {experts!r}; give a list of names, [{experts!r}]")
    if isinstance(experts, Mapping | Set):  # a mapping's values would be lost, and a set has no order of its own
        names = ", ".join(repr(name) for name in experts)
        raise ConfigError(
            f"experts is a {type(experts).__name__}; give a list of names, [{names}], each of which may be a mapping "
            "of settings with its name among them: {'name': ..., 'dtype': 'bfloat16'}"
        )
    if not isinstance(experts, Iterable):
        raise ConfigError(f"experts is {experts!r:.60}; give a list of names, [] for none")
    parts = {
        "clip": as_config(ClipConfig, clip, "name"),
        "experts": tuple(as_config(ExpertConfig, expert, "name") for expert in experts),
        "fusion": as_config(FusionConfig, fusion, "kind"),
        "decoder": None if decoder is None else as_config(DecoderConfig, decoder, "name"),
    }
    return as_config(ModelConfig, parts | more, "experts")


@building()
def assemble(
    config: ModelConfig,
    *,
    weights: WeightsChoice | str = "pinned",
    device: str | torch.device | None = None,
    seed: int = 0,
    recorded: Provenance | None = None,
    states: Path | None = None,
    ghosts: Sequence[str] = (),
    decoder_device: str | torch.device | None = None,
) -> ToveModel:
    """Build the model a resolved configuration describes; one thread at a time, the others wait.

    Args:
        recorded: provenance of a checkpoint; its experts are found by the distribution and variant it names, and its
            commits and hashes win over specs and lock file.
        states: folder of a complete checkpoint with the experts' own states, which no recorded hash is of.
        ghosts: detached experts whose gate rows still count.
        decoder_device: where the decoder waits until it is divided among processes; None: `device`.
    """
    usable_device(device or "cpu", "the model's device")
    seed = seed_given(seed)
    config, source = with_absolute_places(config), weights_choice(weights)
    choice = "random" if source == "random" else "pinned"
    registry = plugins.registry()
    known = recorded.experts if recorded else {}
    resolved = {  # all names before any weights
        wanted.key: find_again(registry, wanted.key, known[wanted.key])
        if wanted.key in known
        else registry.resolve(wanted.name)
        for wanted in config.experts
    }
    for found in resolved.values():
        found.to_build()
    for unchecked in check_licenses(config, resolved):
        warnings.warn(unchecked, stacklevel=4)  # past the decorator
    pairs = [with_absolute_member(wanted, resolved[wanted.key]) for wanted in config.experts]
    config = config.model_copy(update={"experts": tuple(wanted for wanted, _ in pairs)})
    resolved = {wanted.key: found for wanted, found in pairs}
    placements = {wanted.key: Placement.of(wanted, device) for wanted in config.experts}
    held = recorded.clip.revision if recorded else None
    tower = load_tower(config.clip, weights=choice, seed=seed, device=device, revision=held)
    # Before any expert is fetched: one that gives text needs a CLIP with a text tower.
    widths = {key: aligned_width(found.spec, TextVectors(tower)) for key, found in resolved.items()}
    loaded, origins = _load_experts(config, resolved, placements, source, seed, recorded, states)
    with drawn_from(seed):
        own = [wanted.key for wanted in config.experts if wanted.gate == "own"]
        fusion = build_transfer(config.fusion, tower.width, widths, ghosts, own)
    decoder = None
    if config.decoder is not None:
        place = decoder_device or device
        held = recorded.decoder.revision if recorded and recorded.decoder else None
        decoder = load_decoder(
            config.decoder, width=tower.width, weights=choice, seed=seed, device=place, revision=held
        )
        if config.decoder.projector is not None:
            start_projector(decoder.projector, config.decoder.projector)
    if fusion is not None:
        fusion.to(device)
        fixed = config.fusion.model_copy(update={"hidden": fusion.hidden, "parameters": None})
        config = config.model_copy(update={"fusion": fixed})
    provenance = _provenance(tower, origins, decoder)
    origin = Origin(weights=str(source), seed=seed)
    return ToveModel(tower, loaded, fusion, decoder, config, provenance, origin).eval()


def weights_choice(text: WeightsChoice | str) -> WeightsChoice:
    """Return `pinned` or `random` as they are, anything else as the folder it names, from the root on."""
    if text in ("pinned", "random"):
        return text  # type: ignore[return-value]
    return Path(absolute(str(path_given(text, "weights"))))


def _load_experts(
    config: ModelConfig,
    resolved: Mapping[str, plugins.Resolved],
    placements: Mapping[str, Placement],
    weights: WeightsChoice,
    seed: int,
    recorded: Provenance | None,
    states: Path | None,
) -> tuple[dict[str, FrozenExpert], dict[str, ExpertProvenance]]:
    loaded, origins = {}, {}
    for wanted in config.experts:
        known = recorded.experts.get(wanted.key) if recorded else None
        loaded[wanted.key], origins[wanted.key] = load_one(
            wanted,
            resolved[wanted.key],
            weights=weights,
            placement=placements[wanted.key],
            seed=seed,
            recorded=known if not states else None,
            state=state_file(states, wanted.key) if states else None,
        )
    return loaded, origins


def load_one(
    wanted: ExpertConfig,
    found: plugins.Resolved,
    *,
    weights: WeightsChoice,
    placement: Placement,
    seed: int,
    recorded: ExpertProvenance | None = None,
    state: Path | None = None,
) -> tuple[FrozenExpert, ExpertProvenance]:
    """Load one expert as configured, with where it came from; arguments as for `load_expert`.

    What a checkpoint `recorded` of its files, hash and commits, wins over the spec.
    """
    spec = at_commits(found.spec.variant(), recorded.commits if recorded else {})
    expert, digest = load_expert(
        spec,
        name=wanted.key,
        weights=weights,
        placement=placement,
        dtype=DTYPES[wanted.dtype],
        seed=seed,
        expected_sha256=recorded.sha256 if recorded else None,
        cure=same_weights(recorded) if recorded else None,
        state=state,
    )
    commits = {} if state else commits_of(spec, weights)
    origin = ExpertProvenance(
        reference=found.offer.qualified,
        sha256=digest,
        revision=commits.get(spec.weights.repo or "") if spec.weights else None,
        commits=commits,
        name=found.spec.name,
        variant=found.variant,
        distribution=found.offer.source.distribution,
        version=found.offer.source.version,
        license=combined(found.spec.weights)[0],
    )
    return expert, origin


def start_projector(projector: nn.Module, reference: str) -> None:
    """Load a projector trained before, as the first stage of LLaVA-style training leaves one.

    Raises:
        WeightsError: the file is missing, not safetensors, or does not fit.
    """
    module, slash, inside = reference.removeprefix("package:").partition("/")
    path = package_path(module, inside) if reference.startswith("package:") and slash else Path(reference)
    tensors = read_safetensors(path)
    try:
        projector.load_state_dict(tensors)
    except RuntimeError as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(tensors.items()))
        raise WeightsError(
            f"decoder.projector {reference!r} does not fit this CLIP and language model (it holds {shapes}); "
            "leave it out to start from random"
        ) from error


def state_file(folder: Path, key: str) -> Path:
    """Return where a complete checkpoint keeps an expert's state; `/` and `:` of the name are no part of a file's."""
    return folder / (key.replace("/", "__").replace(":", "--") + ".safetensors")


def _provenance(tower: Tower, experts: dict[str, ExpertProvenance], decoder: Decoder | None) -> Provenance:
    from tove_core import __version__

    language = None
    if decoder is not None:
        known = decoder.identity
        language = PartProvenance(reference=known.name, sha256=known.sha256, revision=known.revision)
    clip = PartProvenance(reference=tower.reference, sha256=tower.weights_sha256, revision=tower.revision)
    return Provenance(tove=__version__, clip=clip, experts=experts, decoder=language)


def as_config(kind: type[T], value: Any, main: str) -> T:
    """Return a configuration of the given kind from itself, from a mapping, or from its `main` key alone."""
    if isinstance(value, kind):
        return value
    given = {main: value} if isinstance(value, (str, Path)) else value
    if not isinstance(given, Mapping):
        told = f"the expert spec {value.name!r}" if isinstance(value, ExpertSpec) else f"{value!r:.80}"
        raise ConfigError(f"{told} was given as {kind.__name__}; give its {main}, a mapping or a {kind.__name__}")
    if isinstance(given.get(main), Path):
        given = {**given, main: str(given[main])}
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError(describe(error, kind)) from error
