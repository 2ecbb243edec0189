"""`tove export`: write a model without experts in a format of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core.cli.places import Run, opened

if TYPE_CHECKING:
    from tove_core.model import ToveModel

FORMATS = ("llava", "clip", "open-clip", "onnx")
DTYPES = {"llava": ("float32", "bfloat16", "float16"), "onnx": ("float32", "float16")}


def export(
    run: Run,
    to: Annotated[
        str,
        typer.Option(
            help="llava: CLIP, projector and language model, for transformers' LLaVA; clip: the CLIP alone, for "
            "transformers; open-clip: the same for open_clip; onnx: the same for onnxruntime and others, without Python"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for the result; empty, or not there yet")],
    dtype: Annotated[
        str | None,
        typer.Option(
            help="of a LLaVA's weights: float32, bfloat16 or float16; the language model's when not given. Of an "
            "ONNX's: float32, or float16 for files of half the size that still compute in float32"
        ),
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
    if to == "onnx":
        from tove_core.export.onnx import require_onnx

        require_onnx()
    model = ToveModel.from_pretrained(opened(run))
    if to == "llava":
        _llava(model, out, dtype)
    elif to == "onnx":
        _onnx(model, out, dtype)
    else:
        from tove_core.export.clip import write_clip

        report = write_clip(model, out, transformers=to == "clip")
        loads = (
            "transformers' CLIPModel loads it"
            if to == "clip"
            else f"open_clip.create_model('local-dir:{out}') loads it"
        )
        print(f"wrote {out}; {loads}")
        print(report.summary())


def _llava(model: ToveModel, out: Path, dtype: str | None) -> None:
    from tove_core.export.llava import write_llava

    done = write_llava(model, out, dtype=dtype)  # type: ignore[arg-type]  # checked above
    print(f"wrote {out}; transformers' LlavaForConditionalGeneration and AutoProcessor load it")
    print(
        f"largest differences: image features {done.feature_difference:.2g} of {done.feature_scale:.3g}, "
        f"logits {done.logit_difference:.2g} of {done.logit_scale:.3g} ({done.rounding_difference:.2g} by "
        f"rounding to {done.dtype}), pixels {done.pixel_difference:.2g}"
    )


def _onnx(model: ToveModel, out: Path, dtype: str | None) -> None:
    from tove_core.export.onnx import write_onnx

    done = write_onnx(model, out, dtype=dtype or "float32")  # type: ignore[arg-type]  # checked above
    print(f"wrote {out}; onnxruntime runs it")
    if done.text_left_out is not None:
        print(f"without text.onnx: {done.text_left_out}")
    rounding = f" ({done.rounding_difference:.2g} by rounding to {done.dtype})" if done.dtype != "float32" else ""
    parts = [f"tokens {done.token_difference:.2g} of {done.token_scale:.3g}{rounding}"]
    if done.image_difference is not None:
        parts.append(f"image embeddings {done.image_difference:.2g} of {done.image_scale:.3g}")
    if done.text_difference is not None:
        parts.append(f"text embeddings {done.text_difference:.2g} of {done.text_scale:.3g}")
    print(f"largest differences: {', '.join(parts)}")


def _check(to: str, dtype: str | None) -> None:
    from tove_core.errors import ConfigError

    if to not in FORMATS:
        raise ConfigError(f"there is no format {to!r} to export to; choose {', '.join(FORMATS)}")
    if dtype is None:
        return
    every = tuple(dict.fromkeys(name for names in DTYPES.values() for name in names))
    if dtype not in every:
        raise ConfigError(f"--dtype is {dtype!r}; choose {', '.join(every)}")
    if to not in DTYPES:
        raise ConfigError(
            f"--dtype {dtype} is for --to {' and '.join(DTYPES)}; a CLIP is written in the precision it has, leave it "
            "out"
        )
    if dtype not in DTYPES[to]:
        raise ConfigError(f"--dtype {dtype} is not for --to {to}; choose {', '.join(DTYPES[to])}")
