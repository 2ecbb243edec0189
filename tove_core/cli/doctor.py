"""`tove doctor`: versions, devices, and every plugin that failed with its traceback."""

from __future__ import annotations

import platform
import sys
import traceback
from importlib import metadata
from typing import Annotated

import typer

from tove_core import environment, plugins

LIBRARIES = (
    "torch", "torchvision", "triton", "transformers", "open_clip_torch", "timm", "accelerate", "huggingface_hub",
    "safetensors", "pluggy",
)  # fmt: skip


def doctor(
    device: Annotated[
        str | None,
        typer.Option(help="compute there what the CPU computes, and compare: each kernel, and a small model"),
    ] = None,
) -> None:
    """Show versions, devices and what went wrong with plugins, and try a device.

    Exit code 1 when a plugin failed, or a device computes something else than the CPU.
    """
    registry = plugins.registry()
    print(f"python {platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}")
    for name in ("tove-core", *LIBRARIES):
        print(f"{name} {_version(name)}")
    print(f"lock file {environment.home() / 'weights.lock.json'}; network {_network()}")
    _accelerators()
    _device()
    print(f"{len(registry.offers)} experts from {len({offer.source for offer in registry.offers})} plugins")
    for note in registry.notes:
        print(f"note: {note}")
    for source, variable in sorted(registry.blocked.items()):
        print(f"blocked: {source} (by {variable})")
    for source in sorted(registry.empty):
        print(
            f"offers no expert: {source}, entry point {source.entry_point!r}; its tove_experts() returns an empty list"
        )
    for source, error in sorted(registry.failures.items()):
        print(f"failed: {source}, entry point {source.entry_point!r}")
        print("".join(traceback.format_exception(error)).rstrip())
    if not (device is None or _tried(device)) or registry.failures:
        raise typer.Exit(1)


def _tried(device: str) -> bool:
    """Say what a device computes beside the CPU, and return whether it is the same."""
    from tove_core.demo.device_trials import trials
    from tove_core.hub.placement import usable_device

    place = usable_device(device, "--device")
    print(f"try {place}, against the CPU:")
    failed = 0
    for trial in trials(place):
        print(f"  {trial}", flush=True)
        failed += not trial.passed
    if failed:
        print(f"{failed} of them failed; if they are kernels, TOVE_KERNELS=reference computes with plain PyTorch")
    return not failed


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _network() -> str:
    return "forbidden (TOVE_OFFLINE or HF_HUB_OFFLINE)" if environment.offline() else "allowed"


def _accelerators() -> None:
    """Print what torch was built for and each device's memory."""
    import torch

    print(f"torch is built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU alone, without CUDA'}")
    for i in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(i)
        size = f"{found.total_memory / 1e9:.1f} GB, compute capability {found.major}.{found.minor}"
        print(f"cuda:{i} {found.name}, {size}")
    if torch.backends.mps.is_available():
        print("mps: Apple's GPU, for which nothing here has been tried")


def _device() -> None:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        print(f"devices: {', '.join(names)}")
        _kernels("cuda")
    else:
        print(f"devices: CPU only, {torch.get_num_threads()} threads")
    _kernels("cpu")


def _kernels(device: str) -> None:
    from tove_kernels.choice import choose

    try:
        print(f"kernels on {device}: {choose(device)}")
    except (ValueError, RuntimeError) as error:
        print(f"kernels on {device}: none, {error}")
