"""`tove app`: a local web page on which people ask a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tove_core.cli.device import tell_unused_gpu
from tove_core.cli.places import Run, opened
from tove_core.cli.runs import Device


def app(
    run: Run,
    host: Annotated[str, typer.Option(help="address of this machine to listen on; 0.0.0.0: every one")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="where to listen; the first free one from 7860 if not given")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="an image that visitors may choose; may be given several times")
    ] = None,
    device: Device = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="longest answer; as the model's configuration says if not given")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="let gradio's servers make the page public for some days")
    ] = False,
) -> None:
    """Serve a web page on which a model is asked: image, question, answer, experts on and off, and their gates.

    Nobody but this machine reaches it unless --host or --share says so, and the page loads nothing from elsewhere.
    Ctrl-C ends it. Needs the extra `app` of tove-core.
    """
    from tove_core import environment
    from tove_core.app.serve import free_port, require_gradio, start, wait
    from tove_core.errors import ConfigError

    require_gradio()
    if share and environment.offline():
        raise ConfigError("--share needs the network, which TOVE_OFFLINE or HF_HUB_OFFLINE forbids; leave it out")
    chosen = free_port(host, port)
    from tove_core.app.facts import facts, warnings_of
    from tove_core.app.host import Host
    from tove_core.checkpoint import read_manifest, require_decoder
    from tove_core.hub.images import read_image
    from tove_core.hub.placement import usable_device
    from tove_core.model import ToveModel
    from tove_core.publishing.terms import parts_of

    for path in image or []:
        read_image(path)  # a bad file is reported before anything is loaded
    usable_device(device or "cpu", "--device")
    place = opened(run)
    require_decoder(place)
    tell_unused_gpu(device)
    model = ToveModel.from_pretrained(place, device=device)
    for told in warnings_of(model):
        typer.echo(f"note: {told}", err=True)
    foot = facts(model, run, parts_of(read_manifest(place)))
    page, local, public = start(Host(model, max_new_tokens), run, foot, image or [], host, chosen, share)
    if share and public is None:
        typer.echo("note: gradio's servers gave no public address; the page is served here alone", err=True)
    for address in (local, public):
        if address is not None:
            print(f"serving {address}", flush=True)
    print("Ctrl-C ends it", flush=True)
    wait(page)
