"""The page in the browser: its logic without gradio, its server on the loopback, and the page in headless Chromium."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from reconstruction_world import BACKBONE, draw_picture
from safetensors.torch import load_file

import naf_hub
from naf_hub.app.choices import backbone_choices, upsampler_choices
from naf_hub.app.kept_models import KeptModels
from naf_hub.app.serving import FOLDER_SWITCH, private_folder, require_host, served
from naf_hub.app.similarity import cosines_to, heat_picture, similar_to
from naf_hub.app.viewer import Viewer
from naf_hub.app.visits import MOST, Visits
from naf_hub.commands.main import cli
from naf_hub.errors import ImageError, MissingExtraError


@pytest.fixture
def photo(tmp_path: Path, install_plugin) -> Path:
    install_plugin("tiny-plugin", BACKBONE)
    return draw_picture(tmp_path / "photos" / "a photo.png", 3)


class Bright:
    """Finds what is bright, whatever the words."""

    def find(self, image, words, backbone, upsampler):
        return image.mean(0)


@pytest.fixture
def viewer(tmp_path: Path) -> Viewer:
    folder = tmp_path / "private"
    folder.mkdir()
    return Viewer(KeptModels(), Visits(folder), Bright())


def test_cosines_are_torchs_and_of_the_right_pixel():
    features = torch.randn(5, 6, 8)
    expected = torch.cosine_similarity(features, features[:, 2, 7, None, None], dim=0)
    torch.testing.assert_close(similar_to(features, (2, 7), (6, 8)), expected)
    torch.testing.assert_close(
        similar_to(features, (11, 31), (24, 32)), expected
    )  # of a picture four times as large
    assert cosines_to(torch.zeros(5, 2, 2), torch.ones(5)).abs().max() == 0
    for at in ((6, 0), (0, 8), (-1, 0)):
        with pytest.raises(ValueError, match="lies outside the photo of 6x8 pixels"):
            similar_to(features, at, (6, 8))


def test_heat_goes_from_dark_to_bright_in_blocks():
    rgb = np.asarray(heat_picture(torch.tensor([[0.0, 1.0], [-9.0, 9.0]]), 0.0, 1.0, (4, 4)))
    assert rgb[0, 0].tolist() == rgb[1, 1].tolist() == rgb[3, 0].tolist() == [68, 1, 84]
    assert rgb[0, 3].tolist() == rgb[3, 3].tolist() == [253, 231, 37]
    assert heat_picture(torch.ones(2, 2), 1.0, 1.0, (2, 2)).size == (
        2,
        2,
    )  # all the same: no division by zero


def test_a_photo_is_upsampled_looked_at_and_saved(viewer, photo):
    shown = viewer.upsample("me", photo, "tiny_backbone=none", "bilinear", (32, 48))
    assert (shown.name, shown.size) == ("a photo.png", (32, 48))
    assert "bilinear: 32x48 pixels" in shown.said
    model = viewer.models.load("tiny_backbone=none", "bilinear")[0]
    torch.testing.assert_close(model(photo, image_size=(32, 48))[0], shown.done.features)
    assert {panel.size for panel in shown.panels.values()} == {(48, 32)}
    assert viewer.compare("me", "photo") == (shown.panels["photo"], shown.panels["upsampled features"])

    assert (shown.zoom, shown.view.size) == (9, (432, 288))
    marked, (before, after), said = viewer.similar("me", (9 * 9 + 4, 30 * 9 + 8))
    assert (marked.size, before.size, after.size) == (shown.view.size, (48, 32), (48, 32))
    assert (
        after.getpixel((30, 9)) == before.getpixel((30, 9)) == (253, 231, 37)
    )  # nothing is more like it than itself
    assert "row 9, column 30" in said
    (view, found), said = viewer.find("me", " the light ")
    assert view is shown.panels["photo"]
    assert np.asarray(found).mean() != np.asarray(after).mean()
    assert "'the light'" in said

    saved = viewer.save("me")
    assert saved.is_relative_to(viewer.visits.folder)
    file = naf_hub.open_features(saved.parent)["a photo.png"]
    torch.testing.assert_close(file.read().float(), shown.done.features, atol=1e-2, rtol=1e-2)
    assert file.settings["size"] == "32x48"


def test_models_are_loaded_once(viewer, photo):
    first, _ = viewer.models.load("tiny_backbone=none", "bilinear")
    second, made = viewer.models.load("tiny_backbone=none", "nearest")
    again, _ = viewer.models.load("tiny_backbone=none", "bilinear")
    assert first.backbone is second.backbone is again.backbone
    assert first.upsampler is again.upsampler
    assert (made["upsampler"], made["backbone"]) == ("nearest", "tiny_backbone")
    viewer.models.load("pico", "bilinear")
    assert (
        viewer.models.load("tiny_backbone=none", "bilinear")[0].backbone is not first.backbone
    )  # one is kept


def test_what_is_left_is_nothing(tmp_path):
    visits: Visits[int] = Visits(tmp_path)
    for visit in range(MOST + 1):
        visits.keep(str(visit), visit)
    with pytest.raises(ValueError, match="drop a photo"):
        visits.of("0")
    assert visits.of("1") == 1
    (tmp_path / "upload").mkdir()
    (tmp_path / "upload" / "a.png").touch()
    (tmp_path / "b.png").touch()
    visits.leave("1")
    assert len(list(tmp_path.iterdir())) == 2  # others are still there
    for visit in range(MOST + 1):
        visits.leave(str(visit))
    assert list(tmp_path.iterdir()) == []


def test_errors_are_one_line_without_folders(viewer, tmp_path):
    upload = viewer.visits.folder / "0f3a"
    upload.mkdir()
    (upload / "no.png").write_bytes(b"no picture")
    with pytest.raises(ImageError) as error:
        viewer.upsample("me", upload / "no.png", "pico", "bilinear", 32)
    assert viewer.explain(error.value) == "no.png: not an image file, or a damaged one"
    assert viewer.explain(KeyError("x")) == "unexpected KeyError: 'x'"
    viewer.words = None
    with pytest.raises(ValueError, match="no CLIP on this machine"):
        viewer.find("me", "cat")


def test_choices_say_what_they_fetch(choosy):
    names = {name: label for label, name in backbone_choices("pico")}
    assert next(iter(names)) == names["pico"] == "pico"
    assert "on first use)" in names["dinov2_s"]
    mine = [name for _, name in upsampler_choices("naf=some/path", "pico")]
    assert mine[0] == "naf=some/path"
    assert {"naf", "bilinear", "choosy"} < set(mine)
    assert "choosy" not in [name for _, name in upsampler_choices("naf", "dinov2_b")]


def test_what_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(cli, ["app", "--no-open"])
    assert (result.exit_code, result.output) == (
        1, "naf-hub: the app needs gradio: pip install 'naf-hub[app]'\n"
    )  # fmt: skip
    with private_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0 or sys.platform == "win32"
    assert not folder.exists()
    with pytest.raises(MissingExtraError), served("pico", "bilinear", 32):
        pass


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.invalid", "a" * 70])
def test_a_host_of_another_machine_is_one_line(host, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # told before gradio is imported
    result = CliRunner().invoke(cli, ["app", "--no-open", "--host", host])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith(f"naf-hub: cannot listen at host {host} (")
    assert "give --host an address of this machine" in result.output


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_host_of_this_machine_is_taken(host):
    require_host(host)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("gradio", reason="comes with the extra app")
    with served("pico", "bilinear", 64, megabytes=1) as address:
        yield address


def test_the_server_answers_this_machine_and_shows_no_file(address, photo, tmp_path):
    import httpx
    from gradio_client import Client, handle_file

    assert address.startswith("http://127.0.0.1:")
    file = Path(naf_hub.__file__).with_name("version.py")
    assert httpx.get(f"{address}gradio_api/file={file}").status_code == 403
    chosen = ("pico", "bilinear", "64", "photo")
    # Closed, or its visit lasts, and with it the files of all others.
    with contextlib.closing(Client(address, verbose=False, download_files=str(tmp_path))) as client:
        *_, problem = client.predict(None, *chosen, api_name="/upsample")
        assert "no photo yet" in problem
        compared, view, said, *_, problem = client.predict(
            handle_file(str(photo)), *chosen, api_name="/upsample"
        )
    assert (said.startswith("pico: "), problem) == (True, "")
    assert Image.open(view["path"] if isinstance(view, dict) else view).size == (448, 448)
    assert len(compared) == 2


@pytest.fixture
def browser():
    """Headless Chromium: the system's, or the one that ``playwright install chromium`` brought."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="comes with the extra dev"
    ).sync_playwright()
    with playwright as started:
        own = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
        executable = next(own, started.chromium.executable_path)
        if not Path(executable).exists():
            pytest.skip("no Chromium here; `playwright install chromium` brings one")
        chromium = started.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def test_the_page_in_a_browser(address, browser, photo, tmp_path):
    page = browser.new_page(viewport={"width": 1280, "height": 1200})
    page.set_default_timeout(60_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.set_input_files("#photo input[type=file]", photo)
    page.wait_for_function("document.querySelector('#said').innerText.includes('bilinear')")
    page.wait_for_function("document.querySelector('#view img')?.naturalHeight == 448")
    assert page.locator("#compared img").count() == 2
    assert page.locator("#words").count() == 0  # no CLIP is there

    image = page.locator("#view img")
    box = image.bounding_box()
    assert box is not None
    assert box["width"] > 300  # a small photo is enlarged
    image.click(position={"x": box["width"] * 0.25, "y": box["height"] * 0.5})
    page.wait_for_function("document.querySelector('#clicked').innerText.includes('pixel in row')")
    row, column = map(int, re.findall(r"(?:row|column) (\d+)", page.inner_text("#clicked")))
    assert abs(row - 32) <= 1
    assert abs(column - 16) <= 1
    page.wait_for_function("document.querySelectorAll('#alike img').length == 2")

    page.click("#save")
    page.wait_for_selector("#saved a")
    with page.expect_download() as download:
        page.click("#saved a")
    assert download.value.suggested_filename == "a photo.safetensors"
    assert load_file(download.value.path())["features"].shape == (256, 64, 64)

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.click("#photo button[aria-label='Clear']")
    page.set_input_files("#photo input[type=file]", broken)
    alert = page.wait_for_selector("#problem [role=alert]")
    assert alert is not None
    assert alert.inner_text() == "broken.png: not an image file, or a damaged one"
    assert page.locator("#compared img").count() == 2  # what was there stays

    large = tmp_path / "large.png"
    large.write_bytes(bytes(2_000_000))
    page.click("#photo button[aria-label='Clear']")
    page.set_input_files("#photo input[type=file]", large)
    page.wait_for_selector("text=/maximum allowed size/i")
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    folder = Path(os.environ[FOLDER_SWITCH])
    assert list(folder.rglob("*.png"))
    page.close()
    for _ in range(100):
        if not list(folder.rglob("*.png")):
            break
        time.sleep(0.1)
    assert list(folder.rglob("*.*")) == []  # nothing is left of the visit
