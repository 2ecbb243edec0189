"""`tove export`: write a model without experts in a format of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tove_core.cli.places import Run, opened

FORMATS = ("llava", "clip", "open-clip")
DTYPES = ("float32", "bfloat16", "float16")


def export(
    run: Run,
    to: Annotated[
        str,
        typer.Option(
            help="llava: CLIP, projector and language model, for transformers' LLaVA; clip: the CLIP alone, for "
            "transformers; open-clip: the same for open_clip"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for the result; it must not exist yet")],
    dtype: Annotated[
        str | None,
        typer.Option(help="of a LLaVA's weights: float32, bfloat16 or float16; the language model's when not given"),
    ] = None,
) -> None:
    """Write a merged model, or any without experts, as a checkpoint that needs no code of tove.

    What is written is loaded back and compared with the model before it is there.
    """
    from tove_core.folders import require_new, require_writable
    from tove_core.model import ToveModel

    _check(to, dtype)
    require_new(out)
    require_writable(out)
    model = ToveModel.from_pretrained(opened(run))
    if to != "llava":
        from tove_core.export.clip import write_clip

        report = write_clip(model, out, transformers=to == "clip")
        print(f"wrote {out}; {report.summary()}")
        return
    from tove_core.export.llava import write_llava

    done = write_llava(model, out, dtype=dtype)  # type: ignore[arg-type]  # checked above
    print(f"wrote {out}; transformers' LlavaForConditionalGeneration and AutoProcessor load it")
    print(
        f"largest differences: image features {done.feature_difference:.2g} of {done.feature_scale:.3g}, "
        f"logits {done.logit_difference:.2g} of {done.logit_scale:.3g} ({done.rounding_difference:.2g} by "
        f"rounding to {done.dtype}), pixels {done.pixel_difference:.2g}"
    )


def _check(to: str, dtype: str | None) -> None:
    from tove_core.errors import ConfigError

    if to not in FORMATS:
        raise ConfigError(f"there is no format {to!r} to export to; choose {', '.join(FORMATS)}")
    if dtype not in (None, *DTYPES):
        raise ConfigError(f"--dtype is {dtype!r}; choose {', '.join(DTYPES)}")
    if dtype is not None and to != "llava":
        raise ConfigError(f"--dtype {dtype} is for --to llava; a CLIP is written in the precision it has, leave it out")
