"""Build the fusion a configuration asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from tove_core.config import FusionConfig
from tove_core.errors import ConfigError
from tove_core.fusion.baselines import ClipMlp, ConcatTransfer
from tove_core.fusion.gated import GatedTransfer
from tove_core.fusion.transfer import Transfer
from tove_core.naming import CLIP


def build_transfer(
    config: FusionConfig,
    width: int,
    experts: Mapping[str, int],
    ghosts: Sequence[str] = (),
    own: Sequence[str] = (),
) -> Transfer | None:
    """Build the configured fusion for tokens of `width` D and experts of the given aligned widths.

    Args:
        ghosts: names of detached experts whose gate rows still count in the softmax.
        own: those of the experts whose gate stands apart from the others'.

    Returns:
        None when there is nothing to fuse: no experts, and a kind that needs some.

    Raises:
        ConfigError: experts are given to a kind that uses none, or a name cannot be a module's.
    """
    check_names([*experts, *ghosts])
    if config.kind == "clip-mlp":
        if experts:
            raise ConfigError(f"fusion.kind 'clip-mlp' uses no experts, got {', '.join(experts)}; leave experts empty")
        return ClipMlp(width, experts, config)
    if not experts:
        return None
    if config.kind == "concat":
        return ConcatTransfer(width, experts, config)
    return GatedTransfer(width, experts, config, ghosts, own)


def check_names(names: Iterable[str]) -> None:
    """Refuse names under which a module cannot hold an expert.

    Raises:
        ConfigError: a name is empty, has a dot in it, is an attribute of modules, or that of CLIP's own tokens.
    """
    taken = nn.ModuleDict()  # an instance: it has attributes that the class has not, such as `training`
    for name in names:
        if not name or "." in name or hasattr(taken, name):
            raise ConfigError(f"an expert cannot be called {name!r} inside a model; ask for it with an alias")
        if name == CLIP:  # its features would be CLIP's tokens, and it would never run
            raise ConfigError(f"an expert cannot be called {name!r} beside CLIP itself; ask for it with an alias")
