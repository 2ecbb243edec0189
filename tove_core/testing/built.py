"""Checks of building: without network, without luck, without leaving anything behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from tove_core.errors import PluginError, ToveError, WeightsError
from tove_core.hub.load import import_function, load_expert
from tove_core.hub.state import tensors_of
from tove_core.hub.weights import locate, read_safetensors
from tove_core.testing.bench import bench, load, run, small
from tove_core.testing.compare import difference, flat
from tove_core.testing.definition import CheckFailed, NotApplicable, NotRun, defines, one_line
from tove_core.testing.subject import Subject
from tove_core.testing.watch import Zeroed, poisoned, undone


@defines(
    "builds-offline",
    "module",
    summary="builds its architecture without network and without weight files",
    cause="The factory calls `from_pretrained(name)`, `create_model(pretrained=True)` or `torch.hub.load`, or raises "
    "an error of its own.",
    cure="Repair what the message names. Build from a configuration (`from_config`, `pretrained=False`) that is in the "
    "code or shipped with the plugin; name the weights in `weights`, and the hub loads them.",
)
def builds_offline(subject: Subject) -> str:
    """Build while sockets and weight files are refused."""
    at = bench(subject)
    import_function(subject.spec.factory, subject.name)  # factory-resolves tells where it cannot be imported
    try:
        _ = at.expert
    except Exception as error:
        said = f": {at.tried[0]}" if at.tried else f" ({' '.join(str(error).split())})"
        raise CheckFailed(f"it could not be built{said}") from error
    if at.tried:
        raise CheckFailed(f"while it was built, {at.tried[0]}")
    return at.size


@defines(
    "random-init-deterministic",
    "module",
    summary="is the same expert whenever it is built from the same seed",
    cause="The factory draws from a generator of its own that nobody seeded, or reseeds by the clock.",
    cure="Draw from torch's default generator, which the hub seeds, or from a generator with a fixed seed.",
)
def deterministic(subject: Subject) -> str:
    """Compare two builds bit by bit; values that nobody wrote are left to another check."""
    # One that was never run, as `poisoned` is: what a forward pass keeps or changes is another check's subject.
    first = dict(_tensors(load(subject, small(subject.spec)).module))
    second = dict(_tensors(bench(subject).poisoned.module))
    if first.keys() != second.keys():
        raise CheckFailed(f"two builds differ in {sorted(first.keys() ^ second.keys())[0]}")
    for name, tensor in first.items():
        other = second[name]
        written = ~_unwritten(other)
        if tensor.shape != other.shape or not torch.equal(tensor[written], other[written]):
            raise CheckFailed(f"{name} differs between two builds from the same seed")
    return f"{len(first)} tensors"


@defines(
    "no-uninitialised-tensors",
    "module",
    summary="writes to all the memory it uses",
    cause="A parameter or a buffer comes from `torch.empty` or `torch.Tensor(n)` and nothing is written to it. A "
    "buffer with `persistent=False` is in no weight file either, so the expert computes with what lay in memory.",
    cure="Fill every tensor in the constructor, whatever is loaded later.",
)
def no_uninitialised(subject: Subject) -> str:
    """Build and run where fresh memory holds NaN or the largest integer, and look for them."""
    module = bench(subject).poisoned.module
    for name, tensor in _tensors(module):
        if _unwritten(tensor).any():
            raise CheckFailed(f"{name} {list(tensor.shape)} is never written to")
    expert, images = bench(subject).expert, bench(subject).images[1:]
    with undone(), Zeroed():
        clean = flat(run(expert, images.clone()))
    with undone(), poisoned():
        found = flat(run(expert, images.clone()))
    for name, tensor in found.items():
        if tensor.isnan().any() and not clean[name].isnan().any():
            raise CheckFailed(f"{name} of the forward pass holds memory that nobody wrote to")
    return ""


@defines(
    "no-global-state",
    "module",
    summary="leaves torch's settings, the environment and the random generators as they were",
    cause="The factory or the forward pass calls `torch.set_*`, `torch.manual_seed` or `torch.backends.*`, writes to "
    "`os.environ`, or the forward pass draws random numbers, as dropout does.",
    cure="Leave settings to the application. In evaluation mode a forward pass draws nothing: pass "
    "`training=self.training` to functional dropout.",
)
def no_global_state(subject: Subject) -> str:
    """Compare the settings before and after building, and everything before and after a forward pass."""
    at = bench(subject)
    try:
        _ = at.outputs
    except Exception:
        if not at.changed:  # what the factory did is known although it cannot be run
            raise
    if at.changed:
        raise CheckFailed("; ".join(at.changed))
    return ""


@defines(
    "state-dict-roundtrip",
    "module",
    summary="gives the same outputs again from its state dict",
    cause="Something that was drawn at random or computed from weights is neither a parameter nor a buffer, or is a "
    "buffer with `persistent=False`.",
    cure="Register it (`self.register_buffer(name, tensor)`).",
)
def roundtrip(subject: Subject) -> str:
    """Load the state of one build into another with other random weights, and compare what they give."""
    at = bench(subject)
    reference = at.alone
    other = load(subject, small(subject.spec), seed=1)
    try:
        other.module.load_state_dict(at.expert.module.state_dict(), strict=True)
    except RuntimeError as error:
        raise CheckFailed(f"the state of one build does not fit another ({' '.join(str(error).split())})") from error
    other.spec = at.expert.spec
    apart = difference(run(other, at.images[1:].clone()), reference)
    if apart.largest > 1e-4:
        raise CheckFailed(f"{apart.name} differs by {apart.largest:.1e} (relative) after loading the state dict")
    return ""


@defines(
    "convert-is-pure",
    "module",
    summary="converts weights without changing what it is given",
    cause="`convert` pops or overwrites entries of its argument, writes into the tensors, or reads something else.",
    cure="Return a new dict: `return {new_name(key): tensor for key, tensor in state.items()}`.",
)
def convert_is_pure(subject: Subject) -> str:
    """Convert the shipped weights, or the module's own state, twice, and compare what went in and what came out."""
    if subject.spec.convert is None:
        raise NotApplicable("it has no convert function")
    try:
        convert = import_function(subject.spec.convert, subject.name)
    except PluginError as error:  # factory-resolves tells of it
        raise NotRun(one_line(error)) from error
    given = _published(subject)
    state = given if given is not None else tensors_of(bench(subject).expert.module)
    copy = {name: tensor.clone() for name, tensor in state.items()}
    try:
        first = convert(state)
    except Exception as error:
        if given is None:
            raise NotApplicable(f"it wants the names of the published weights ({type(error).__name__})") from error
        raise CheckFailed(f"it raised {type(error).__name__} for the shipped weights: {error}") from error
    if state.keys() != copy.keys() or not all(torch.equal(copy[name], state[name]) for name in copy):
        raise CheckFailed("the state dict it was given is another one afterwards")
    if not isinstance(first, Mapping) or not all(isinstance(value, Tensor) for value in first.values()):
        raise CheckFailed(f"it returned {type(first).__name__}; return a mapping of name to tensor")
    second = convert(copy)
    if first.keys() != second.keys() or not all(torch.equal(first[name], second[name]) for name in first):
        raise CheckFailed("it gives something else the second time")
    return "the shipped weights" if given is not None else "the module's own state"


@defines(
    "weights-load",
    "module",
    summary="loads the weights that its package ships",
    cause="The file is missing, or the names or shapes of its tensors are not the module's.",
    cure="Save the file with safetensors from the module's own state dict, or give a `convert` function.",
)
def weights_load(subject: Subject) -> str:
    """Build with the weights of the package; those of a repository are never downloaded by a check."""
    if subject.spec.weights is None or subject.spec.weights.package is None:
        raise NotApplicable("it ships no weights" if subject.spec.weights is None else "they are on a hub")
    try:
        _, digest = load_expert(subject.spec, name=subject.name)
    except PluginError:
        raise
    except ToveError as error:
        raise CheckFailed(str(error)) from error
    return f"sha256 {(digest or '')[:12]}..."


def _published(subject: Subject) -> dict[str, Tensor] | None:
    weights = subject.spec.weights
    if weights is None or weights.package is None:
        return None
    try:
        path = locate(subject.spec, "pinned")
        return None if path is None else read_safetensors(path)
    except WeightsError:
        return None  # weights-load says what is wrong with the file


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters, buffers of every kind, and tensors that are plain attributes."""
    yield from module.named_parameters()
    yield from module.named_buffers()
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                yield f"{prefix}.{name}".lstrip("."), value


def _unwritten(tensor: Tensor) -> Tensor:
    """Tell where a tensor of a poisoned build holds the poison."""
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor.isnan()
    if tensor.dtype is torch.bool:
        return torch.zeros_like(tensor)
    return tensor == torch.iinfo(tensor.dtype).max
