"""A checkpoint is one folder: `tove.json`, what was trained by name, and the frozen parts by reference or inside.

The manifest holds hashes of every file beside it, so a truncated or altered file is noticed before it is used.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from tove_core.builder import assemble, state_file
from tove_core.checks import path_given
from tove_core.config import ModelConfig, Rule
from tove_core.errors import CheckpointError, ConfigError, UnknownExpertError
from tove_core.folders import new_folder
from tove_core.fusion.selector import Selection, Selector
from tove_core.hub.checkpoints import FROZEN, MANIFEST, TENSORS, find_checkpoint, open_checkpoint
from tove_core.hub.lock import pins_once_accepted
from tove_core.hub.state import copied_to_cpu, tensors_of
from tove_core.hub.weights import read_safetensors, sha256
from tove_core.leaving import manifest_without, tensors_without
from tove_core.model import ToveModel
from tove_core.places import with_absolute_places, with_clip_in
from tove_core.provenance import Origin, PartProvenance, Provenance
from tove_core.recall import warn_of_other_versions
from tove_core.restorable import as_written, require_restorable
from tove_core.run_folder import no_checkpoint
from tove_core.selecting import SELECT_ANEW
from tove_core.settings import describe
from tove_core.spec import Frozen
from tove_core.starting import other_meanings, other_shapes
from tove_core.tower.base import Tower
from tove_core.tower.source import sha256_of


class Manifest(Frozen):
    """The content of `tove.json`."""

    format: Literal[1] = Field(description="version of this file's layout")
    config: ModelConfig
    provenance: Provenance
    origin: Origin = Origin()
    off: dict[str, Rule] = Field(default_factory=dict, description="experts that are switched off, and how")
    ghosts: tuple[str, ...] = Field(default=(), description="detached experts that still count in the softmax")
    selection: Selection | None = Field(default=None, description="how experts are chosen for an image; none: all run")
    calibrated: bool = False
    trained: bool = False
    full: bool = Field(default=False, description="whether the frozen parts are inside")
    files: dict[str, str] = Field(default_factory=dict, description="sha256 of every other file, by relative path")


def save(model: ToveModel, folder: str | Path, *, full: bool = False) -> Path:
    """Write a checkpoint; an existing checkpoint at that place is replaced once the new one is complete.

    A merged model is always saved in full: its tower is nowhere else.

    Raises:
        CheckpointError: the model is not what its configuration builds, a frozen part is being trained and `full` is
            off, something that is not a checkpoint is in the way, or the folder cannot be written.
    """
    folder = path_given(folder, "the folder of the checkpoint")
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not a tove checkpoint; give a new folder")
    full = full or model.origin.own_tower
    require_restorable(model, full=full)
    with new_folder(folder, overwrite=True) as place:
        save_file(trained_tensors(model), place / TENSORS)
        if full:
            _save_frozen(model, place / FROZEN)
        files = {str(p.relative_to(place)): sha256(p) for p in sorted(place.rglob("*")) if p.is_file()}
        fusion = as_written(model.fusion)
        manifest = Manifest(
            format=1,
            config=model.config,
            provenance=model.provenance,
            origin=model.origin,
            off=dict(fusion.off) if fusion else {},
            ghosts=tuple(fusion.ghosts) if fusion else (),
            selection=model.selector.selection if model.selector else None,
            calibrated=model.calibrated,
            trained=model.trained,
            full=full,
            files=files,
        )
        # What selects nothing is written as it ever was, so that older versions read it.
        unset = None if manifest.selection else {"selection"}
        (place / MANIFEST).write_text(manifest.model_dump_json(indent=2, exclude=unset) + "\n", encoding="utf-8")
    return folder


def load(
    folder: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    decoder_device: str | torch.device | None = None,
    without: Mapping[str, Rule] | None = None,
) -> ToveModel:
    """Read a checkpoint; bit for bit what was saved. Devices as for `tove_core.builder.assemble`.

    Args:
        folder: of a checkpoint, or of a run or a merged model that holds one; or a hub id, see `open_checkpoint`.
        revision: of the hub's repository: a commit, a branch or a tag; None: its pin, else `main`.
        without: experts that are detached by the given rule and unloaded; neither weights nor plugin of theirs is
            needed.

    Raises:
        UnknownExpertError: it is to be without an expert it does not hold.
        ConfigError: the fusion has no softmax to renormalise.
        CheckpointError: it is not a checkpoint, the hub cannot give it, it was altered, its tensors do not fit the
            model it describes, or an expert it records is not installed, though another of its name may be.
        WeightsError: a frozen part it refers to is missing or has other weights, or a file of the hub was altered.
    """
    folder = find_checkpoint(open_checkpoint(folder, revision))
    gone = without or {}
    manifest = manifest_without(verified(folder), gone)
    config = _described(manifest, folder)
    recorded, origin = manifest.provenance, manifest.origin
    # A family also reads configurations of its member's repository, which must be those of the recorded commit.
    held = {repo: commit for expert in recorded.experts.values() for repo, commit in expert.commits.items()}
    with pins_once_accepted(held):
        model = assemble(
            config,
            weights="pinned" if manifest.full else origin.weights,
            device=device,
            seed=origin.seed,
            recorded=recorded,
            states=folder / FROZEN / "experts" if manifest.full else None,
            ghosts=manifest.ghosts,
            decoder_device=decoder_device,
        )
        if not manifest.full and (found := recorded.differences(model.provenance)):
            parts = "; ".join(found)
            raise CheckpointError(f"{folder} was trained on other frozen parts: {parts}; restore those weights")
    model.origin = origin if manifest.full else origin.model_copy(update={"weights": model.origin.weights})
    warn_of_other_versions(recorded.experts, model.provenance.experts, stacklevel=3)
    model.config = manifest.config if manifest.full else with_absolute_places(manifest.config)
    model.provenance = recorded
    if manifest.selection is not None:
        model.selector = selector_of(model, manifest.selection)
    _restore(model, tensors_without(read_safetensors(folder / TENSORS), gone, manifest), folder)
    _switch_off(model, manifest, folder)
    model.calibrated, model.trained = manifest.calibrated, manifest.trained
    return model


def verified(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint all of whose files are as they were saved; folders as for `load`.

    Raises:
        CheckpointError: it is not a checkpoint, or a file is missing or was altered.
    """
    folder = find_checkpoint(folder)
    manifest = read_manifest(folder)
    if TENSORS not in manifest.files:
        raise CheckpointError(f"{folder / MANIFEST} records no hash of {TENSORS}; restore the checkpoint from a copy")
    for name, digest in manifest.files.items():
        _verify(folder / name, digest)
    return manifest


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check `tove.json`; folders as for `load`.

    Raises:
        CheckpointError: there is none, or it is not one this version understands.
    """
    path = find_checkpoint(folder) / MANIFEST
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise no_checkpoint(Path(folder)) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore the checkpoint from a copy") from error
    version = data.get("format") if isinstance(data, dict) else None
    if version != 1:
        raise CheckpointError(f"{path} has format {version!r}; this tove reads format 1, upgrade tove or convert it")
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        raise CheckpointError(f"{path} is not valid: {describe(error)}") from error


def require_decoder(folder: str | Path) -> None:
    """Refuse a checkpoint whose model cannot write text, before anything is loaded; folders as for `load`.

    Raises:
        ConfigError: it has no decoder.
        CheckpointError: see `read_manifest`.
    """
    if read_manifest(folder).config.decoder is None:
        raise ConfigError(
            f"the model of {folder} was built with decoder=None and cannot write text; give one with a decoder"
        )


def selector_of(model: ToveModel, selection: Selection) -> Selector:
    """Return an untrained selector that fits a model, beside its fusion; frozen, as training does not concern it."""
    selector = Selector(model.tower.width, selection).to(model.device)
    return selector.requires_grad_(False).eval()


def trained_tensors(model: ToveModel) -> dict[str, Tensor]:
    """Return copies of every tensor that training, calibration or learning to select sets, by name, on the CPU."""
    return _on_cpu(_learned_tensors(model))


def _learned_tensors(model: ToveModel) -> dict[str, Tensor]:
    """Return the model's own tensors of that kind, by name."""
    tensors = {f"align.{name}": buffer for name, buffer in model.align.named_buffers()}
    for part in ("fusion", "decoder"):
        module = getattr(model, part)
        if module is not None:
            tensors |= {f"{part}.{name}": p for name, p in module.learned().items()}
    if model.selector is not None:
        tensors |= {f"selector.{name}": p for name, p in model.selector.named_parameters()}
    return tensors


def _restore(model: ToveModel, tensors: dict[str, Tensor], folder: Path) -> None:
    if problems := _misfits(_learned_tensors(model), tensors):
        raise CheckpointError(f"{folder / TENSORS} does not fit the model {MANIFEST} describes: {'; '.join(problems)}")
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def start_from(model: ToveModel, place: str | Path) -> None:
    """Give a model the trained tensors of a checkpoint, whatever else it is trained on next.

    The experts, their projectors and the decoder must be the same; of settings by which the tensors do something else,
    such as CLIP's layer, a warning tells. Parameters of the language model that the
    checkpoint did not train stay as they were loaded. A selector is left behind, with a warning: what experts save
    changes in training.

    Args:
        model: what gets them.
        place: of the checkpoint: a folder or a hub id, see `open_checkpoint`.

    Raises:
        CheckpointError: the checkpoint is damaged, was trained on other frozen parts, or holds other tensors.
    """
    folder = find_checkpoint(open_checkpoint(place))
    manifest = read_manifest(folder)
    _verify(folder / TENSORS, manifest.files.get(TENSORS, ""))
    if found := _trained_on(manifest, folder).differences(model.provenance):
        cure = "start from another run"
        if manifest.origin.own_tower:
            inside = with_clip_in(manifest.config, folder / FROZEN / "clip").clip.name
            cure = f"its CLIP was trained by merging, so set model.clip.name to {inside}"
        raise CheckpointError(f"{folder} was trained on other frozen parts: {'; '.join(found)}; {cure}")
    warn_of_other_versions(manifest.provenance.experts, model.provenance.experts, stacklevel=2)
    if manifest.off or manifest.ghosts:
        raise CheckpointError(f"{folder} had experts detached, which a new run cannot start from; give the run before")
    _require_same_experts(manifest, model, folder)
    given, wanted = read_safetensors(folder / TENSORS), _learned_tensors(model)
    if manifest.selection is not None:
        given = {name: tensor for name, tensor in given.items() if not name.startswith("selector.")}
        warnings.warn(f"{folder} selects experts, which the new run does not: {SELECT_ANEW}", stacklevel=2)
    untrained = {name: t for name, t in wanted.items() if name.startswith("decoder.language_model.")}
    if problems := _misfits(wanted, untrained | given):
        others = other_shapes(manifest.config, model.config)
        cure = f"; set {', '.join(others)} as there" if others else ""
        told = problems[:1] if others else problems
        raise CheckpointError(f"{folder / TENSORS} does not fit this run's model: {'; '.join(told)}{cure}")
    if others := other_meanings(manifest.config, model.config):
        warnings.warn(
            f"{folder} was trained with other settings than this run's: {', '.join(others)}, so that what it starts "
            "from does something else here; set them as there, unless that is wanted",
            stacklevel=2,
        )
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in given.items():
            state[name].copy_(tensor)
    model.calibrated, model.trained = manifest.calibrated, manifest.trained


def _trained_on(manifest: Manifest, folder: Path) -> Provenance:
    """Return the frozen parts a checkpoint's tensors belong to: of a merged one the CLIP inside, not the one it was."""
    known = manifest.provenance
    if not manifest.origin.own_tower:
        return known
    digest = sha256_of(sorted((folder / FROZEN / "clip").glob("*.safetensors")))
    return known.model_copy(update={"clip": PartProvenance(reference=known.clip.reference, sha256=digest)})


def _require_same_experts(manifest: Manifest, model: ToveModel, folder: Path) -> None:
    """Refuse a start with other experts in words of experts; tensors say the same in words nobody wrote.

    Raises:
        CheckpointError: the checkpoint lacks one or has one more, or one whose gate stands elsewhere.
    """
    own, asked = [expert.key for expert in manifest.config.experts], [expert.key for expert in model.config.experts]
    told = [f"it also has expert {name!r}; name it among model.experts" for name in own if name not in asked]
    told += [
        f"it lacks expert {name!r}; leave it out of model.experts, and let it join with 'tove train RUN --add' later"
        for name in asked
        if name not in own
    ]
    gates = {expert.key: expert.gate for expert in model.config.experts}
    told += [
        f"the gate of {one.key!r} is {one.gate!r} there and {gates[one.key]!r} here; set its gate in model.experts"
        for one in manifest.config.experts
        if gates.get(one.key, one.gate) != one.gate
    ]
    if told:
        raise CheckpointError(f"{folder} has other experts than this run: {told[0]}")


def _switch_off(model: ToveModel, manifest: Manifest, folder: Path) -> None:
    try:
        for name, rule in manifest.off.items():
            model.detach(name, rule)
    except (ConfigError, UnknownExpertError) as error:
        raise CheckpointError(f"{folder / MANIFEST} cannot switch off {name!r}: {error}") from error


def _misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Say how tensors differ from those a model has, names and shapes."""
    problems = []
    for verb, names in (("lacks", wanted.keys() - given.keys()), ("has beside them", given.keys() - wanted.keys())):
        if names:
            problems.append(f"it {verb} {len(names)}, first {min(names)}")
    for name in sorted(wanted.keys() & given.keys()):
        if wanted[name].shape != given[name].shape:
            problems.append(f"{name} is {list(given[name].shape)} where the model has {list(wanted[name].shape)}")
    return problems[:5]


def _verify(path: Path, digest: str) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; restore the checkpoint from a copy")
    if sha256(path) != digest:
        raise CheckpointError(f"{path} was altered or truncated since it was saved; restore it from a copy")


def _save_frozen(model: ToveModel, folder: Path) -> None:
    from tove_core.language.load import save_decoder

    (folder / "experts").mkdir(parents=True)
    write_tower(model.tower, folder / "clip")
    for key, expert in model.experts.items():
        save_file(_on_cpu(tensors_of(expert.module)), state_file(folder / "experts", key))  # type: ignore[arg-type]
    if model.decoder is not None:
        save_decoder(model.decoder, folder / "decoder")


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that share no memory, as safetensors wants them."""
    return {name: copied_to_cpu(tensor) for name, tensor in tensors.items()}


def write_tower(tower: Tower, folder: Path) -> None:
    """Write a tower in the layout of the library it comes from."""
    from tove_core.export.hf_dir import write_hf
    from tove_core.export.open_clip_dir import write_open_clip
    from tove_core.tower.hf import HfTower

    (write_hf if isinstance(tower, HfTower) else write_open_clip)(tower, folder)


def _described(manifest: Manifest, folder: Path) -> ModelConfig:
    """Return the configuration to build from: the saved one, but for what the checkpoint itself holds."""
    config = manifest.config
    if config.decoder is not None:  # the projector is among the trained tensors
        config = config.model_copy(update={"decoder": config.decoder.model_copy(update={"projector": None})})
    if not manifest.full:
        return config
    place = folder / FROZEN
    config = with_clip_in(config, place / "clip")
    if config.decoder is None:
        return config
    decoder = config.decoder.model_copy(update={"name": str(place / "decoder")})
    # The policy knows the language model, as CLIP, by the name it had before it was copied here.
    licenses = config.licenses and config.licenses.renamed({config.decoder.name: decoder.name})
    return config.model_copy(update={"decoder": decoder, "licenses": licenses})
