"""The page itself, laid out with gradio; what it shows comes from :class:`naf_hub.app.viewer.Viewer`."""

import functools
import html
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..image_sizes import describe_image_size, parse_image_size
from .choices import backbone_choices, upsampler_choices
from .viewer import Viewer

if TYPE_CHECKING:
    import gradio as gr

SIZES = ("224", "336", "448", "672", "896")
PANELS = ("low-resolution features", "photo")
# Shown as they are, small ones too: what a pixel is must be seen.
CSS = """
.pictures img { image-rendering: pixelated; }
#problem b { color: #b91c1c; }
"""
PICTURES: dict[str, Any] = {"format": "png", "interactive": False, "elem_classes": "pictures"}
HEIGHT = 420


def lay_out(viewer: Viewer, backbone: str, upsampler: str, size: Any) -> "gr.Blocks":
    """The page, ready to be launched.

    Args:
        viewer: answers what is asked.
        backbone, upsampler: ``NAME[=WEIGHTS]`` that are chosen at first.
        size: of photos at first, see :func:`naf_hub.image_sizes.fit_size`.
    """
    # Here, and without annotations put off, which gradio could not read: it comes with an extra.
    import gradio as gr

    sizes = list(dict.fromkeys([*SIZES, describe_image_size(size)]))
    with gr.Blocks(title="naf-hub", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        gr.Markdown(
            "## naf-hub: one vector a pixel\nDrop a photo, compare its features, and click what you look for."
        )
        problem = gr.HTML(elem_id="problem")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                file = gr.File(label="Photo", file_types=["image"], height=130, elem_id="photo")
                behind = gr.Dropdown(backbone_choices(backbone), value=backbone, label="Backbone")
                chosen = gr.Dropdown(
                    upsampler_choices(upsampler, backbone), value=upsampler, label="Upsampler"
                )
                side = gr.Dropdown(
                    sizes, value=describe_image_size(size), label="Size: pixels of the shorter side"
                )
                run = gr.Button("Upsample", variant="primary", elem_id="upsample")
                said = gr.Markdown(elem_id="said")
                save = gr.Button("Save the features", elem_id="save")
                # "hidden", for gradio before 6.22 never shows what was not in the page at first.
                saved = gr.File(label="Features, as safetensors", visible="hidden", elem_id="saved")
            with gr.Column(scale=3):
                left = gr.Radio(
                    PANELS,
                    value=PANELS[0],
                    label="Left of the slider; right of it are upsampled features",
                )
                compared = gr.ImageSlider(
                    label="Features: three principal components, one basis", max_height=HEIGHT, elem_id="compared",
                    **PICTURES,
                )  # fmt: skip
                with gr.Row():
                    view = gr.Image(label="Photo: click a pixel", buttons=[], elem_id="view", **PICTURES)
                    alike = gr.ImageSlider(
                        label="What is like that pixel: low-resolution | upsampled", max_height=HEIGHT,
                        elem_id="alike", **PICTURES,
                    )  # fmt: skip
                clicked = gr.Markdown(elem_id="clicked")
                with gr.Row(visible=viewer.words is not None):
                    words = gr.Textbox(label="Look for words", placeholder="cat", elem_id="words")
                    found = gr.ImageSlider(
                        label="Photo | where the words fit", max_height=HEIGHT, elem_id="found", **PICTURES
                    )
                answer = gr.Markdown(elem_id="answer")

        def upsample(
            path: str | None, name: str, above: str, pixels: str, panel: str, request: gr.Request
        ) -> Any:
            if path is None:
                raise ValueError("no photo yet: drop one first")
            visit = _visit(request)
            shown = viewer.upsample(visit, Path(path), name, above, parse_image_size(pixels))
            return viewer.compare(visit, panel), shown.view, shown.said, None, "", gr.update(visible="hidden")

        def compare(panel: str, request: gr.Request) -> Any:
            return (viewer.compare(_visit(request), panel),)

        def offer(name: str, above: str) -> Any:
            choices = upsampler_choices(upsampler, name)
            known = {value for _, value in choices}
            return (gr.update(choices=choices, value=above if above in known else "bilinear"),)

        def click(event: gr.SelectData, request: gr.Request) -> Any:
            x, y = event.index
            return viewer.similar(_visit(request), (int(y), int(x)))

        def find(text: str, request: gr.Request) -> Any:
            return viewer.find(_visit(request), text)

        def keep(request: gr.Request) -> Any:
            return (gr.update(value=str(viewer.save(_visit(request))), visible=True),)

        def enter(request: gr.Request) -> None:
            viewer.visits.enter(_visit(request))

        def leave(request: gr.Request) -> None:
            viewer.visits.leave(_visit(request))

        def on(
            event: Any, function: Callable[..., Any], inputs: Any, outputs: list[Any], **more: Any
        ) -> None:
            """Have an event call the function; its errors are shown as one line, and all else stays as it is."""

            @functools.wraps(function)
            def asked(*arguments: Any) -> Any:
                try:
                    return *function(*arguments), ""
                except Exception as error:
                    line = html.escape(viewer.explain(error))
                    return *(gr.skip() for _ in outputs), f'<p role="alert"><b>{line}</b></p>'

            event(asked, inputs, [*outputs, problem], **more)

        wanted = [file, behind, chosen, side, left]
        results = [compared, view, said, alike, clicked, saved]
        busy = {"show_progress_on": [compared]}
        on(run.click, upsample, wanted, results, api_name="upsample", **busy)
        on(file.upload, upsample, wanted, results, api_visibility="private", **busy)
        on(left.input, compare, left, [compared], api_visibility="private")
        on(behind.input, offer, [behind, chosen], [chosen], api_visibility="private")
        on(
            view.select,
            click,
            None,
            [view, alike, clicked],
            api_visibility="private",
            show_progress_on=[alike],
        )
        on(words.submit, find, words, [found, answer], api_name="find", show_progress_on=[found])
        on(save.click, keep, None, [saved], api_name="save", show_progress_on=[saved])
        page.load(enter, api_visibility="private")
        page.unload(leave)
    return page


def _visit(request: "gr.Request") -> str:
    return str(request.session_hash)


def launch(page: "gr.Blocks", host: str, port: int | None, megabytes: int) -> str:
    """Serve a page from threads of their own; returns its address. See :func:`naf_hub.app.serving.served`."""
    import gradio as gr

    # Fonts of the system, so that nothing is asked of a font server.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, max_file_size=f"{megabytes}mb", share=False, quiet=True,
            prevent_thread_lock=True, ssr_mode=False, footer_links=[], theme=theme, css=CSS,
        )  # fmt: skip
    except OSError as error:
        raise OSError(
            f"cannot listen at {host}, port {port or 'from 7860 on'}; choose another --port"
        ) from error
    return address
