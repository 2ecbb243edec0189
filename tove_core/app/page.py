"""The page, on gradio: what it shows, and how its controls reach a `Host`. Only this module and `serve` need gradio."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported, which reads it

import gradio as gr
from gradio.themes import Default

from tove_core.app.host import Host, Question, Reply
from tove_core.app.maps import figures
from tove_core.errors import ToveError

VISITORS = 4
"""Answers that are written at a time; whoever asks beyond that waits in line."""
KEEP = 3600
"""Seconds after which what was uploaded is deleted."""
UNFAIR = "By the same language model, which was trained with the experts: it may look worse than it need be."
"""What is to be known of CLIP's answer beside the model's."""
LENGTH = 4000
"""Letters that the field of the question takes."""

THEME = Default(
    font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]  # what a name lacks is not fetched
)  # fmt: skip
STYLE = """
.tove-facts th { text-align: left; padding-right: 1rem; font-weight: 400; opacity: .7; vertical-align: top; }
.tove-facts td { overflow-wrap: anywhere; }
.tove-maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .8rem; }
.tove-maps figure { margin: 0; }
.tove-maps img { width: 100%; border-radius: 4px; }
.tove-maps figcaption { overflow-wrap: anywhere; font-size: .85rem; }
"""


def build_page(host: Host, name: str, facts: str, images: Sequence[str | Path] = ()) -> gr.Blocks:
    """Return the page of a model.

    Args:
        host: what answers.
        name: of the model, for the head.
        facts: the foot, HTML.
        images: files that visitors may choose instead of one of their own.
    """
    has_experts = bool(host.experts)
    on = host.model.active_experts
    with gr.Blocks(title=f"tove: {name}", analytics_enabled=False, delete_cache=(KEEP, KEEP)) as page:
        gr.HTML(f"<h1>{escape(name)}</h1>")
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=320
                )
                # Gradio would open the file with Pillow, and of a broken one say no more than that something failed.
                image.preprocess = _content  # type: ignore[method-assign]
                if images:
                    files = [[str(Path(path).resolve())] for path in images]
                    gr.Examples(files, [image], label="Examples", cache_examples=False)
                text = gr.Textbox(label="Question", placeholder="Nothing asks for a caption.", max_length=LENGTH)
                experts = gr.CheckboxGroup(host.experts, value=on, label="Experts that are on", visible=has_experts)
                compare = gr.Checkbox(label="Beside it: the answer of CLIP only", info=UNFAIR, visible=has_experts)
                with gr.Row():
                    ask, stop = gr.Button("Ask", variant="primary"), gr.Button("Stop")
            with gr.Column():
                said = gr.Textbox(label="With these experts" if has_experts else "Answer", interactive=False)
                plain = gr.Textbox(label="CLIP only", interactive=False, visible=False)
                maps = gr.HTML(label="Gates")
                note = gr.Textbox(label="About the gates", show_label=False, container=False, interactive=False)
        gr.HTML(facts)
        asked = gr.on(
            [ask.click, text.submit, experts.input, compare.input],
            _asking(host),
            [image, text, experts, compare],
            [said, plain, maps, note],
            api_name="ask",
            concurrency_limit=VISITORS,
            trigger_mode="always_last",
            show_progress_on=said,
        )
        stop.click(None, cancels=[asked], api_visibility="private")
        compare.change(_shown, compare, plain, queue=False, show_progress="hidden", api_visibility="private")
    return page


def _asking(host: Host) -> Any:
    """Return what gradio calls with the values of the controls; each of its yields goes to the page."""

    def ask(image: bytes | None, text: str | None, experts: list[str] | None, compare: bool) -> Iterator[Any]:
        if image is None:
            raise _told("no image was given; upload one, paste one or choose an example")
        reply: Reply | None = None
        try:
            for reply in host.answer(Question(image, text or "", experts or (), compare)):
                # Drawn and sent at the first and the last: pictures are no part of what grows.
                yield reply.text, reply.plain or "", gr.skip() if reply.text else figures(reply.maps), reply.note
        except ToveError as error:
            raise _told(str(error)) from error
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            raise _told(f"the model failed ({type(error).__name__}); its terminal says more, ask again") from error
        if reply is not None:
            yield reply.text, reply.plain or "", figures(reply.maps), reply.note

    return ask


def _shown(wanted: bool) -> Any:
    return gr.update(visible=wanted)


def _told(sentence: str) -> gr.Error:
    """Return what the page shows until it is closed, and a client of the page's API is raised."""
    return gr.Error(escape(sentence, quote=False), duration=None, print_exception=False)


def _content(payload: Any) -> bytes | None:
    """Return the bytes of an image that was uploaded, whatever they hold, from gradio's description of the file.

    An address or a picture inside the description is not taken: the page and gradio's client upload files.
    """
    if payload is None:
        return None
    if payload.path is None:
        raise _told("the image came without a file; upload it")
    return Path(payload.path).read_bytes()
