"""The command line on real input and on bad input."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from ready_python import run_python, start_python
from safetensors.torch import load_file

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.reports import Report

TINY = ["--upsampler", "bilinear", "--backbone", "pico", "--size", "64"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def picture(path: Path, height: int = 80, width: int = 96) -> Path:
    rows, columns = np.mgrid[:height, :width]
    rgb = np.stack([rows * 255 / height, columns * 255 / width, (rows // 16 + columns // 16) % 2 * 255], -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb.astype(np.uint8)).save(path)
    return path


def test_list_info_plugins():
    listed = json.loads(run("list", "--json").output)
    assert {r["name"] for r in listed["upsamplers"]} == set(naf_hub.list_upsamplers())
    shown = run("list").output
    assert "naf " in shown
    assert "bilinear" not in run("list", "naf*").output
    assert json.loads(run("info", "naf", "--json").output) == naf_hub.info("naf").to_dict()
    text = run("info", "naf").output
    assert "arxiv.org" in text
    assert "weights 'official':" in text
    plugins = json.loads(run("plugins", "--json").output)
    assert {p["name"] for p in plugins} >= {"naf", "filters", "timm", "pico"}
    assert "naf-hub" in run("plugins").output


def test_info_of_a_backbone_says_what_matters_for_choosing():
    shown = {}
    for line in run("info", "dinov3_b").output.partition("options, ")[0].splitlines():
        key, _, value = line.strip().partition("  ")
        shown[key] = value.strip()
    assert shown["embed_dim"] == "768"
    assert shown["patch_size"] == "16"
    assert shown["native_size"] == "256"
    assert (shown["mean"], shown["std"]) == ("[0.485, 0.456, 0.406]", "[0.229, 0.224, 0.225]")
    assert (shown["gated"], shown["non_commercial"]) == ("False", "False")
    assert shown["license"] == "DINOv3 License"  # of the weights; that of the code has a line of its own
    assert shown["code license"] == "Apache-2.0"
    assert shown["repository"] == "timm/vit_base_patch16_dinov3.lvd1689m"
    assert shown["revision"].startswith("main (not pinned; pin with")
    assert "non_commercial  True" in run("info", "mae_b").output


def test_info_shows_a_pinned_revision(install_plugin):
    install_plugin(
        "pinned-naf",
        """
        from naf_hub import BackboneRecord, Weights, hookimpl

        @hookimpl
        def register_backbones(register):
            weights = {"default": Weights("hf://me/mine@v1.2/model.safetensors")}
            register(BackboneRecord(name="pinned", summary="Pinned.", target="a:B", weights=weights))
        """,
    )
    text = run("info", "pinned").output
    assert "revision    v1.2" in text
    assert "not pinned" not in text
    data = json.loads(run("info", "pinned", "--json").output)["weights"]["default"]
    assert (data["repository"], data["revision"]) == ("me/mine", "v1.2")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["info", "nafff"], 2, "did you mean naf"),
        (["info", "resnet18"], 2, "unknown name 'resnet18'; did you mean timm:resnet18?"),
        (["upsample", "x.jpg", "-o", "out", "--backbone", "resnet18"], 2, "did you mean timm:resnet18?"),
        (
            ["upsample", "x.jpg", "-o", "out", "--upsampler", "resnet18"],
            2,
            "'resnet18'; did you mean nearest?",
        ),
        (["list", "zzz*"], 2, "nothing registered matches"),
        (["no-such-command"], 2, "No such command"),
        (["upsample"], 2, "Missing"),
        (["upsample", "nowhere.jpg", "-o", "out"], 1, "no image at nowhere.jpg"),
        (["upsample", "x.jpg", "-o", "out", "--size", "big"], 2, "not N, HxW or 'native'"),
        (["upsample", "x.jpg", "-o", "out", "--size", "0"], 2, "not N, HxW or 'native'"),
        (["bench", "naf", "--size", "native"], 2, "not N or HxW"),
        (["eval", "depth", "--size", "4.5"], 2, "not N or HxW"),
        (["upsample", "x.jpg", "-o", "out", "--threads", "0"], 2, "x>=1"),
        (["list", "zzz", "--kind", "task"], 2, "nothing registered of kind task matches 'zzz'"),
        (["list", "--kind", "model"], 2, "is not one of 'upsampler'"),
        (["upsample", "x.jpg", "-o", "out", "--option", "nonsense"], 2, "is not key=value"),
        (["convert", "nowhere.pth", "-o", "out", "--name", "naf"], 2, "does not exist"),
        (["bench", "naf", "--features", "3,3"], 2, "is not C,h,w"),
        (["bench", "nafff"], 2, "did you mean naf"),
        (["bench", "bilinear=foo"], 2, "'bilinear' has no weights to choose"),
        (["bench", "naf", "--device", "tpu"], 2, "give auto, cpu, cuda, cuda:1 or mps"),
        (["upsample", "x.jpg", "-o", "out", "--upsampler", "bilinear=foo"], 2, "no weights to choose"),
        (
            ["upsample", "x.jpg", "-o", "out", "--backbone", "naf"],
            2,
            "'naf' names a registered upsampler, no backbone",
        ),
        (["demo", "--image", "nowhere.jpg"], 2, "does not exist"),
    ],
)
def test_bad_usage_is_one_line(arguments, status, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir()), "something was written"


def test_debug_shows_the_traceback_and_leaves_the_log_as_it_was():
    before = logging.getLogger("naf_hub").level
    result = run("--debug", "info", "nafff")
    assert isinstance(result.exception, naf_hub.UnknownNameError)
    assert logging.getLogger("naf_hub").level == before


def test_upsample_writes_picture_and_features(tmp_path):
    source = picture(tmp_path / "in" / "a.jpg")
    result = run("upsample", source, "-o", tmp_path / "out", *TINY)
    assert result.exit_code == 0, result.output
    tensors = load_file(tmp_path / "out" / "a.safetensors")
    dim = naf_hub.info("pico").embed_dim  # pyright: ignore
    assert tuple(tensors["features"].shape) == (dim, 64, 80)  # 80x96: shorter side 64, 76.8 to the patch
    assert tuple(tensors["low_res"].shape) == (dim, 4, 5)
    assert tensors["features"].dtype == torch.float16
    sheet = Image.open(tmp_path / "out" / "a.png")
    assert sheet.width > 3 * 80
    assert len(sheet.convert("RGB").getcolors(sheet.width * sheet.height)) > 50, "the picture is blank"


def test_upsample_equals_the_python_call(tmp_path):
    source = picture(tmp_path / "a.jpg", 64, 64)
    run("upsample", source, "-o", tmp_path, "--size", "native", "--dtype", "float32", "--force", "--no-picture",
        "--device", "cpu", "--upsampler", "naf", "--weights", "none", "--option", "dim=32")  # fmt: skip
    features = load_file(tmp_path / "a.safetensors")["features"]
    assert tuple(features.shape[1:]) == (64, 64)
    model = naf_hub.load("bilinear", backbone="pico")
    run("upsample", source, "-o", tmp_path, "--size", "native", "--dtype", "float32", "--force", "--no-picture",
        "--device", "cpu", "--upsampler", "bilinear")  # fmt: skip
    with torch.inference_mode():
        expected = model(source)[0]
    assert torch.allclose(load_file(tmp_path / "a.safetensors")["features"], expected, atol=1e-5)


def test_upsample_formats(tmp_path):
    source = picture(tmp_path / "a.jpg")
    assert (
        run("upsample", source, "-o", tmp_path / "o", *TINY, "--format", "npy", "--no-picture").exit_code == 0
    )
    assert np.load(tmp_path / "o" / "a.npy").shape[1:] == (64, 80)
    assert (
        run("upsample", source, "-o", tmp_path / "p", *TINY, "--format", "none", "--size", "48x64").exit_code
        == 0
    )
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["a.png"]


def test_upsample_skips_a_broken_image_and_goes_on(tmp_path):
    picture(tmp_path / "in" / "a.jpg")
    picture(tmp_path / "in" / "sub" / "c.png")
    (tmp_path / "in" / "b.jpg").write_bytes(b"\xff\xd8 broken")
    result = run("upsample", tmp_path / "in", "-o", tmp_path / "out", *TINY, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["failed"] == 1
    assert "b.jpg" in next(r["error"] for r in report["results"] if "error" in r)
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")) == [
        "a.png",
        "a.safetensors",
        "sub/c.png",
        "sub/c.png.safetensors",
    ]
    assert len([line for line in result.stderr.splitlines() if "skipped" in line]) == 1


def test_upsample_never_overwrites_without_force(tmp_path):
    source = picture(tmp_path / "a.jpg")
    arguments = ["upsample", source, "-o", tmp_path / "out", *TINY]
    assert run(*arguments).exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    picture(source, 96, 64)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "use --force" in result.output
    assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert run(*arguments, "--force").exit_code == 0
    assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} != before


def test_upsample_keeps_images_of_one_name_apart(tmp_path):
    picture(tmp_path / "x" / "a.png")
    picture(tmp_path / "y" / "a.png")
    picture(tmp_path / "y" / "a.jpg")
    result = run("upsample", tmp_path / "*" / "a.*", "-o", tmp_path / "out", *TINY)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").rglob("*.safetensors"))) == 3
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")) == [
        "x/a.png",
        "y/a.png",
        "y/a.png.png",
    ]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_upsample_takes_every_kind_of_picture(tmp_path, mode):
    source = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray((np.arange(64 * 64).reshape(64, 64) * 15).astype(np.uint16)).save(source)
    else:
        Image.open(picture(tmp_path / "rgb.png")).convert(mode).save(source)
    result = run("upsample", source, "-o", tmp_path / "out", *TINY)
    assert result.exit_code == 0, result.output


def test_convert(tmp_path):
    model = naf_hub.load("naf", weights=None, dim=32)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    arguments = ["convert", tmp_path / "a.pth", "-o", tmp_path / "out", "--name", "naf", "--option", "dim=32"]
    assert run(*arguments).exit_code == 0
    assert naf_hub.load("naf", weights=tmp_path / "out").dim == 32  # pyright: ignore
    again = run(*arguments)
    assert again.exit_code == 1
    assert "use --force" in again.output
    assert run(*arguments, "--force").exit_code == 0
    torch.save({"ema": {"inner": model.state_dict()}}, tmp_path / "a.pth")
    assert run(*arguments, "--force").exit_code == 0
    assert run(*arguments, "--force", "--key", "ema", "--key", "inner").exit_code == 0


def test_bench_reports_ratio_and_memory():
    result = run(
        "bench", "naf", "bilinear", "--features", "8,6,6", "--size", "48", "--repeats", "1", "--json"
    )
    assert result.exit_code == 0, result.output
    report = Report.from_json(result.output)
    naf, bilinear = report.rows
    assert naf.values["ratio"] == pytest.approx(naf.values["seconds"] / naf.extras["floor_seconds"])
    assert bilinear.values["ratio"] is None
    assert (naf.label, naf.weights) == ("naf", None)
    assert naf.values["peak_mib"] == naf.extras["peak_bytes"] / 2**20
    assert (
        "bare convolutions"
        in run("bench", "naf", "--features", "8,6,6", "--size", "48", "--repeats", "1").output
    )


WANTING = """
import torch
from naf_hub import Upsampler, UpsamplerRecord, Want, hookimpl

class Wanting(Upsampler):
    wants = (Want(kind="key"), Want(0), Want())

    def upsample(self, image, features, output_size):
        keys = features["key[-1]"]
        assert not torch.equal(keys, features["token[-1]"]), "the maps are one and the same"
        return torch.nn.functional.interpolate(keys, output_size)

@hookimpl
def register_upsamplers(register):
    register(UpsamplerRecord(name="wanting", summary="A toy.", target="wanting_naf:Wanting", learned=False))
"""


def test_bench_gathers_what_a_method_wants(install_plugin):
    install_plugin("wanting-naf", WANTING)
    result = run("bench", "wanting", "--features", "8,6,6", "--size", "48", "--repeats", "1", "--json")
    assert result.exit_code == 0, result.output
    assert Report.from_json(result.output)["wanting"].values["seconds"] > 0


def test_demo_writes_what_it_says(tmp_path):
    source = picture(tmp_path / "photo.png")
    result = run("demo", "--image", source, "-o", tmp_path / "out", "--size", "64", "--threads", "1")
    assert result.output.splitlines()[2].endswith(" s, 1 thread")
    assert result.exit_code == 0, result.output
    for line in result.output.splitlines():
        if line.startswith("wrote"):
            assert Path(line.split()[1]).stat().st_size > 0
    made = list((tmp_path / "out").glob("photo_naf_pico.*"))
    assert len(made) == 2
    made[0].write_bytes(b"mine")
    again = run("demo", "--image", source, "-o", tmp_path / "out", "--size", "64")
    assert "is no result of naf-hub; it stays" in again.stderr
    assert made[0].read_bytes() == b"mine"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_batch_and_leaves_nothing_half_written(tmp_path, number, status):
    for i in range(400):
        picture(tmp_path / "in" / f"{i}.png", 16, 16)
    command = ["-m", "naf_hub", "upsample", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *TINY]
    process = start_python(*command, "--size", "512")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "out").glob(".*")), "a temporary file was left"


def test_a_name_that_the_terminal_cannot_show_ends_no_job(tmp_path):
    picture(tmp_path / "in" / "caf\u00e9 \N{GRINNING FACE}.png", 16, 16)
    code = (
        "import sys, warnings; sys.stdout.reconfigure(encoding='ascii', errors='strict');"
        "from naf_hub.commands.main import Cli, main; real = Cli.main;"
        "Cli.main = lambda self: (warnings.warn('a grey\\nday'), real(self)); main()"
    )
    done = run_python("-c", code, "upsample", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *TINY)
    assert done.returncode == 0, done.stderr
    assert "caf\\xe9 \\U0001f600.png" in done.stdout
    assert (
        "naf-hub: a grey day" in done.stderr.splitlines()
    )  # a warning is one line, without its place in the code


def test_photos_are_never_overwritten_nor_results_taken_for_photos(tmp_path):
    source, other = (picture(tmp_path / "pics" / name, 16, 16) for name in ("p.png", "p.jpg"))
    before = source.read_bytes()
    result = run("upsample", tmp_path / "pics", "-o", tmp_path / "pics", *TINY, "--force")
    assert result.exit_code == 1
    assert "one of the photos, which stay" in result.output
    assert source.read_bytes() == before
    for _ in range(2):
        result = run(
            "upsample", tmp_path / "pics", "-o", tmp_path / "pics" / "out", *TINY, "--force", "--json"
        )
        assert [r["image"] for r in json.loads(result.stdout)["results"]] == [str(other), str(source)]


def test_a_name_near_the_limit_costs_nobody_anything(tmp_path):
    for name in ("a", "n" * 245, "\N{GRINNING FACE}" * 60):
        picture(tmp_path / "in" / f"{name}.png", 16, 16)
    result = run("upsample", tmp_path / "in", "-o", tmp_path / "out", *TINY, "--no-picture")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="limits file sizes by setrlimit")
def test_a_full_disk_is_told_with_the_photo(tmp_path):
    for name in "ab":
        picture(tmp_path / "in" / f"{name}.png", 16, 16)
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from naf_hub.commands.main import main; main()"
    )
    command = ["-c", code, "upsample", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    done = run_python(*command, *TINY, "--no-picture")
    assert done.returncode == 1
    assert "unexpected" not in done.stderr
    assert "a.png: cannot write" in done.stderr
    assert "b.png: cannot write" in done.stderr


def test_every_command_has_help():
    def walk(command: click.Command, path: list[str]) -> None:
        result = CliRunner().invoke(cli, [*path, "--help"])
        assert result.exit_code == 0
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                child = command.get_command(click.Context(command), name)
                assert child is not None
                walk(child, [*path, name])

    walk(cli, [])
