"""Upsample Anything: outputs of the authors' code, the fit, any size, memory, gradients, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import naf_hub
from naf_hub_upsample_anything.fit import backward, fit_splats, splats_of, start
from naf_hub_upsample_anything.splats import SplatKernel, Splats
from naf_hub_upsample_anything.upsample_anything import UpsampleAnything

FOLDER = Path(__file__).parent / "goldens" / "upsamplers"
RAW = ("sx_raw", "sy_raw", "th_raw", "sr_raw")
BUDGET = 2**26


def golden(name: str) -> tuple[dict[str, Tensor], dict]:
    with safe_open(FOLDER / f"upsample_anything_{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["meta"])  # noqa: SIM118


def photo(found: dict[str, Tensor]) -> Tensor:
    return found["in/image_u8"].permute(2, 0, 1) / 255


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("memory", [BUDGET, 1])
def test_the_kernel(memory: int):
    found, meta = golden("kernel")
    for case, options in meta["cases"].items():
        if options.get("center_mode") == "floor":  # an option of the authors' that nothing uses
            continue
        names = ("sigma_x", "sigma_y", "theta", "sigma_r")
        splats = Splats(*(found[f"{case}/in/{name}"][0, 0].double() for name in names))
        features, scale = found[f"{case}/in/features"][0], options["scale"]
        kernel = SplatKernel(
            found[f"{case}/in/guide"][0],
            (features.shape[-2], features.shape[-1]),
            options["R_max"],
            (scale, scale),
        )
        assert apart(kernel(splats, features, memory), found[f"{case}/out"][0]) < 1e-5, case


@pytest.mark.parametrize("case", ["s4_rect", "s4_remainder", "s8_nonsquare", "s14_square"])
def test_the_first_step_and_the_fitted_kernel(case: str):
    found, meta = golden(f"tto_{case}")
    image, features, shrunk = photo(found), found["in/features"][0], found["out/lr_image"][0]
    grid = (features.shape[-2], features.shape[-1])
    kernel = SplatKernel(image, grid, 8, (meta["scale"], meta["scale"]))
    if case != "s4_remainder":  # the authors' whole scale moves the places that are sampled
        assert apart(F.interpolate(image[None], grid, mode="bicubic")[0], shrunk) == 0
    raw = start(grid, image.device).requires_grad_()
    assert backward(kernel, raw, shrunk, BUDGET) == pytest.approx(float(found["out/curve"][0]), abs=1e-5)
    assert raw.grad is not None
    for gradient, name in zip(raw.grad, RAW, strict=True):
        # Round Gaussians have no gradient in their angle; the published one is rounding alone.
        limit = 1e-10 if name == "th_raw" else 1e-4 * float(found[f"grad_step0/{name}"].abs().max())
        assert apart(gradient, found[f"grad_step0/{name}"][0, 0]) < limit, name
    splats = splats_of(torch.stack([found[f"after_step50/{name}"][0, 0] for name in RAW]).double())
    assert apart(kernel(splats, features, BUDGET), found["out/out"][0]) < 2e-5


def test_a_whole_fit():
    found, _ = golden("tto_s14_square")
    image, features = photo(found), found["in/features"][0]
    kernel = SplatKernel(image, (3, 3), 8)
    _, losses = fit_splats(kernel, found["out/lr_image"][0], range(51), 0.1, BUDGET)
    assert apart(torch.tensor(losses), found["out/curve"]) < 1e-4
    assert losses[-1] < 0.6 * losses[0]
    with torch.inference_mode():  # where nothing records gradients but the fit itself
        output = UpsampleAnything()(image[None], features[None])
    assert float((output - found["out/out"]).abs().mean()) < 0.02


@pytest.fixture(scope="module")
def model() -> UpsampleAnything:
    return UpsampleAnything(steps=3, radius=2)


def test_budgets_change_nothing(model: UpsampleAnything):
    torch.manual_seed(0)
    image, features = torch.rand(1, 3, 23, 31), torch.randn(1, 3, 6, 7)
    small = UpsampleAnything(steps=3, radius=2, memory=1)
    assert apart(small(image, features), model(image, features)) < 1e-5


def test_an_image_of_another_size_is_resized_first(model: UpsampleAnything):
    image, features = torch.rand(1, 3, 40, 24), torch.randn(1, 2, 4, 5)
    resized = F.interpolate(image, (19, 26), mode="bilinear", antialias=True)
    assert torch.equal(model(image, features, (19, 26)), model(resized, features))


def test_one_fit_serves_many_maps(model: UpsampleAnything):
    image, features = torch.rand(2, 3, 20, 24), torch.randn(2, 5, 4, 6)
    apart_maps = [
        model.apply_splats(model.fit(i, (4, 6)), i, f) for i, f in zip(image, features, strict=True)
    ]
    assert torch.equal(torch.stack(apart_maps), model(image, features))


def test_kept_fits_are_used_for_the_same_image_and_grid_alone(tmp_path: Path, monkeypatch):
    folder = tmp_path / "fits"
    made = []
    fitted = UpsampleAnything._fitted
    monkeypatch.setattr(UpsampleAnything, "_fitted", lambda *args: made.append(args) or fitted(*args))

    def keeping(**options: int) -> UpsampleAnything:
        return UpsampleAnything(**{"steps": 3, "radius": 2, **options}, cache=folder)  # pyright: ignore

    image, features = torch.rand(1, 3, 20, 24), torch.randn(1, 5, 4, 6)
    first = keeping()(image, features)
    assert torch.equal(first, UpsampleAnything(steps=3, radius=2)(image, features))
    made.clear()
    assert torch.equal(keeping()(image, features), first)
    other = keeping()(image, features[:, :2])  # of another backbone
    assert torch.equal(other, first[:, :2])
    assert not made
    keeping()(image.flip(-1), features)
    keeping()(image, features[:, :, :2])
    keeping(steps=2)(image, features)
    keeping(radius=1)(image, features)
    assert len(made) == 4
    assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("damage", [b"", b"not a file of tensors", "another grid", "not a number"])
def test_a_broken_fit_is_told_of_and_made_anew(damage: bytes | str, tmp_path: Path, caplog):
    model = UpsampleAnything(steps=3, radius=2, cache=tmp_path)
    (tmp_path / "mine.txt").write_text("a user's")
    image, features = torch.rand(1, 3, 20, 24), torch.randn(1, 5, 4, 6)
    first = model(image, features)
    (file,) = tmp_path.glob("*.safetensors")
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        grid = (4, 5) if damage == "another grid" else (4, 6)
        save_file({"splats": torch.full((4, *grid), float("nan"), dtype=torch.float64)}, file)
    assert torch.equal(model(image, features), first)
    assert f"{file} cannot be read and is made anew" in caplog.text
    caplog.clear()
    assert torch.equal(model(image, features), first)
    assert caplog.text == ""
    assert (tmp_path / "mine.txt").read_text() == "a user's"


def test_a_cache_that_cannot_be_written(tmp_path: Path, caplog, monkeypatch):
    image, features = torch.rand(1, 3, 20, 24), torch.randn(1, 5, 4, 6)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):  # before anything is fitted
        UpsampleAnything(steps=10**6, cache=tmp_path / "file" / "fits")(image, features)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("naf_hub_upsample_anything.kept_fits.save_file", full)
    found = UpsampleAnything(steps=3, radius=2, cache=tmp_path)(image, features)
    assert torch.equal(found, UpsampleAnything(steps=3, radius=2)(image, features))
    assert "the fit is not kept" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_gradient_leaks_out(model: UpsampleAnything):
    image, features = torch.rand(1, 3, 16, 16).requires_grad_(), torch.randn(1, 2, 4, 4)
    assert not model(image, features).requires_grad
    model(image, features.requires_grad_()).sum().backward()
    # Weights of each pixel sum to one.
    assert features.grad is not None
    assert float(features.grad.sum()) == pytest.approx(2 * 256, rel=1e-4)
    assert image.grad is None
    assert torch.is_grad_enabled()


def test_half_precision_keeps_its_dtype(model: UpsampleAnything):
    image, features = torch.rand(1, 3, 16, 16), torch.randn(1, 2, 4, 4)
    for dtype in (torch.bfloat16, torch.float16):
        found = model(image, features.to(dtype))
        assert found.dtype == dtype
        assert apart(found.float(), model(image, features.to(dtype).float())) < 0.02


def test_progress_shows_on_request(capsys):
    image, features = torch.rand(1, 3, 8, 8), torch.randn(1, 2, 2, 2)
    UpsampleAnything(steps=2, progress=True)(image, features)
    assert "upsample_anything: fit" in capsys.readouterr().err
    UpsampleAnything(steps=2)(image, features)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"radius": 0}, "radius must be at least 1, got 0"),
        ({"learning_rate": 0}, "learning_rate must be positive, got 0"),
        ({"cache": ""}, "cache must name a folder"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        UpsampleAnything(**options)


def test_outputs_below_the_grid_are_refused(model: UpsampleAnything):
    with pytest.raises(ValueError, match="features of 4x6 cannot become 16x5"):
        model(torch.rand(1, 3, 16, 16), torch.randn(1, 2, 4, 6), (16, 5))


def test_the_record_needs_no_weights():
    record = naf_hub.info("upsample_anything")
    assert not record.learned
    assert not record.weights
