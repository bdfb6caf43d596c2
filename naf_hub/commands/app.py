"""``naf-hub app``: a page in the browser."""

from __future__ import annotations

import contextlib
import signal
import time

import click

from ..image_sizes import ImageSize
from ..options import (
    backbone_option,
    device_option,
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    size_option,
    threads_option,
    upsampler_option,
    use_threads,
)


@click.command("app")
@upsampler_option("naf", text="Choose this upsampler at first. ")
@backbone_option("pico", text="Choose this backbone at first, a registered one or timm:<model>. ")
@size_option("448", "Bring photos to this size at first")
@click.option("--clip", metavar="SOURCE",
              help="Look for words by this CLIP, hf://owner/repo[@revision] or a folder.  [default: OpenAI's, if it "
                   "was fetched before]")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Listen at this address. Any but the loopback lets others in, without a password.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), show_default="the first free one from 7860 on",
              help="Listen at this port.")  # fmt: skip
@click.option("--max-upload", default=32, show_default=True, type=click.IntRange(1), metavar="MB",
              help="Refuse photos of more megabytes.")  # fmt: skip
@click.option(
    "--open/--no-open", "open_", default=True, show_default=True, help="Open the page in the browser."
)
@device_option
@threads_option
def app_command(
    upsampler: str, backbone: str, size: ImageSize, clip: str | None, host: str, port: int | None, max_upload: int,
    open_: bool, device: str, threads: int | None,
) -> None:  # fmt: skip
    """Show features in the browser: drop a photo, compare upsamplers, click what you look for.

    The page is served on this machine for this machine. Photos and features lie in a private temporary folder, which is
    emptied when the last page is closed and removed at the end. Ctrl-C ends it. Needs the extra "app".
    """
    from ..app.serving import served

    use_threads(threads)
    (chosen,) = parse_upsamplers([upsampler])
    behind = parse_backbone_option(backbone)
    if hasattr(signal, "SIGHUP"):  # a closed terminal must not leave the folder
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    with served(behind.label, chosen.label, size, clip=clip, device=pick_device(device), host=host, port=port,
                megabytes=max_upload) as address:  # fmt: skip
        click.echo(f"open {address} (Ctrl-C ends it)")
        if open_:
            click.launch(address)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
