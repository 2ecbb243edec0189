"""The launches that are compiled offline: every Triton kernel of the package at the shapes it is made for."""

from __future__ import annotations

from tove_kernels.offline.alignments import align_cases
from tove_kernels.offline.case import Case
from tove_kernels.offline.mixes import mix_cases

# One of each kind, for architectures that are not the main one.
MAIN = frozenset(
    {
        "gated_mix, D=1024, K=4",
        "gated_activation_mix, D=1024, K=4",
        "align_tokens, kept, C=1024",
        "align_tokens, 37x37 to 24x24, C=1024",
        "align_tokens, 48x48 to 24x24 folded by 2, C=256",
    }
)


def cases(main: bool = False) -> list[Case]:
    """Return all cases, or only the main one of each kind."""
    return [case for case in (*mix_cases(), *align_cases()) if not main or case.name in MAIN]
