"""On a CUDA device: what the CPU computes, in every precision, without waiting for the device. Skipped without one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from reconstruction_world import BACKBONE, draw_pictures, prepare_run
from test_conformance import SMALL
from training_world import stop_after

import naf_hub
from naf_hub import checks
from naf_hub.measuring import make_features
from naf_hub.records import UpsamplerRecord
from naf_hub.registry import registry
from naf_hub.testing.subject import SIZES, Subject
from naf_hub_naf import pixel_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

UPSAMPLERS = naf_hub.list_upsamplers()
# Small enough for three sizes of image in a second.
RESTORERS = {
    "restormer": {"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1, "heads": (1, 1, 2, 2)},
    "naf_denoiser": {"dim": 32, "num_blocks": 1},
}
# Fitted to the image by an optimizer, whose steps let rounding grow.
FITTED = ("upsample_anything", "featup_implicit")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Convolutions and products of float32 in float32, not in TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def subject(name: str) -> Subject:
    def make() -> torch.nn.Module:
        torch.manual_seed(0)
        return naf_hub.load(name, weights=None, **SMALL.get(name, {}))

    return Subject(make, registry().find(name, UpsamplerRecord))


def moved(features, *to):
    if isinstance(features, torch.Tensor):
        return features.to(*to)
    return {key: value.to(*to) for key, value in features.items()}


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_upsampler_gives_what_the_cpu_gives(name):
    made = subject(name)
    model, other = made.make().double(), made.make().double().cuda()
    for size in (SIZES[0], SIZES[1], SIZES[3]):
        image, features = made.inputs(2, size, dtype=torch.float64)
        with torch.no_grad():
            expected = model(image, features, size[5:])
            found = other(image.cuda(), moved(features, "cuda"), size[5:])
        assert found.is_cuda
        assert found.dtype == torch.float64
        if name == "featup_implicit":  # whose dropout is drawn on the device
            assert torch.equal(found, other(image.cuda(), moved(features, "cuda"), size[5:]))
            continue
        gap = (found.cpu() - expected).abs().max() / expected.abs().max()
        assert gap < (1e-3 if name in FITTED else 1e-6), (size, float(gap))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", UPSAMPLERS)
def test_upsampler_in_half_precision(name, dtype):
    made = subject(name)
    image, features = made.inputs(1, SIZES[1])
    # Compared on what half precision keeps of them: some methods see the last bits of an image.
    image, features, size = image.to(dtype).cuda(), moved(features, "cuda", dtype), SIZES[1][5:]
    model = made.make().cuda()
    with torch.no_grad():
        expected = model(image.float(), moved(features, torch.float32), size)
        with torch.autocast("cuda", dtype):
            cast = model(image.float(), moved(features, torch.float32), size)
        halved = model.to(dtype)(image, features, size)
    assert halved.dtype == dtype
    for found in (halved, cast):
        assert torch.isfinite(found).all()
        assert (found.float() - expected).norm() / expected.norm() < (0.3 if name in FITTED else 0.1)


@pytest.mark.parametrize("name", [n for n in UPSAMPLERS if n not in FITTED])
def test_upsampler_has_gradients(name):
    made = subject(name)
    grads = []
    for device in ("cpu", "cuda"):
        model = made.make().double().to(device)
        if not model.promises.gradients:
            pytest.skip("promises no gradients")
        image, features = made.inputs(1, SIZES[0], dtype=torch.float64)
        features = moved(features, device)
        given = [features] if isinstance(features, torch.Tensor) else list(features.values())
        for found in given:
            found.requires_grad_()
        model(image.to(device), features, 40).square().mean().backward()
        grads.append([found.grad.cpu() for found in given if found.grad is not None])
    assert grads[0]
    for one, two in zip(*grads, strict=True):
        assert (one - two).abs().max() <= 1e-6 * one.abs().max().clamp_min(1e-3)


@pytest.mark.parametrize("name", naf_hub.list_restorers())
def test_restorer_gives_what_the_cpu_gives(name):
    torch.manual_seed(0)
    model = naf_hub.load_restorer(name, weights=None, **RESTORERS.get(name, {})).double()
    for size in ((24, 40), (33, 17)):
        image = torch.rand(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            expected = model.cpu()(image)
            found = model.cuda()(image.cuda())
        assert (found.cpu() - expected).abs().max() < 1e-6


def test_naf_is_the_released_one_in_chunks_and_whole():
    """Full configuration and the shipped weights, float32; a small budget goes by rows."""
    image, features = torch.rand(2, 3, 224, 224), torch.randn(2, 48, 14, 14)
    with torch.no_grad():
        expected = naf_hub.load("naf")(image, features)
        for memory in (None, "24MiB"):
            model = naf_hub.load("naf", memory=memory).cuda()
            found = model(image.cuda(), features.cuda()).cpu()
            assert (found - expected).abs().max() < 1e-3, memory


def test_points_streams_and_buffers():
    torch.manual_seed(0)
    model = naf_hub.load("naf", weights=None, dim=32).cuda()
    image, features = torch.rand(1, 3, 64, 96, device="cuda"), torch.randn(1, 8, 8, 12, device="cuda")
    with torch.no_grad():
        whole = model(image, features)
        strips = torch.cat(list(model.stream(image, features)), 2)
        on_cpu = model(image, features, output=torch.empty(whole.shape))
        points = model.features_at(image, features, [(3, 5), (95, 63)])
    assert torch.allclose(strips, whole, atol=1e-4)
    assert torch.allclose(on_cpu, whole.cpu(), atol=1e-4)
    assert torch.allclose(points[0].T, whole[0, :, [5, 63], [3, 95]].T, atol=1e-4)


def test_pixel_attention_has_the_gradients_of_the_cpu(monkeypatch):
    maps, values = (torch.randn(2, 20, 40, n, dtype=torch.float64) for n in (8, 3))
    found = []
    for device, tiles in (("cpu", 1024), ("cuda", 1024), ("cuda", 2)):
        monkeypatch.setattr(pixel_attention, "TILES_OF_A_LAUNCH", tiles)
        m, v = (t.to(device).detach().requires_grad_() for t in (maps, values))
        pixel_attention.pixel_attention(m, v, 7).square().sum().backward()
        found.append((m.grad.cpu(), v.grad.cpu()))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.allclose(one, two, atol=1e-10)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_forward_of_naf_waits_for_nothing(precision):
    """Nor launches more kernels than the encoder and a few products need."""
    model = naf_hub.load("naf", weights=None).cuda().to(getattr(torch, precision))
    image = torch.rand(1, 3, 224, 224, device="cuda", dtype=getattr(torch, precision))
    features = torch.randn(1, 64, 14, 14, device="cuda", dtype=getattr(torch, precision))
    with torch.no_grad():
        model(image, features)  # the first call looks at the values and makes tables
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(image, features)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            model(image, features)
            torch.cuda.synchronize()
    kernels = sum(event.count for event in profile.key_averages() if event.device_time_total > 0)
    assert 0 < kernels < 150, kernels


def test_values_are_looked_at_in_the_first_call_of_a_size():
    model = naf_hub.load("bilinear").cuda()
    image, features = (
        torch.rand(1, 3, 16, 16, device="cuda"),
        torch.full((1, 2, 4, 4), float("nan"), device="cuda"),
    )
    for _ in range(2):  # a call that was refused is no call that was right
        with pytest.raises(ValueError, match="NaN"):
            model(image, features)
    model(image, features.nan_to_num())
    assert not checks.looks_at(model, image, features)
    assert checks.looks_at(model, image, features[:, :1])
    assert model(image, features).isnan().all()


def test_a_captured_graph_replays():
    model = naf_hub.load("naf", weights=None, dim=32).cuda()
    image, features = (
        torch.rand(1, 3, 64, 64, device="cuda"),
        make_features(model, torch.rand(1, 3, 64, 64).cuda(), (8, 8, 8)),
    )
    with torch.no_grad():
        for _ in range(3):
            expected = model(image, features)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = model(image, features)
        graph.replay()
        assert torch.equal(found, expected)
        image.copy_(image.flip(-1))
        graph.replay()
        assert torch.allclose(found, model(image, features), atol=1e-5)


def test_training_runs_and_resumes(tmp_path, install_plugin):
    install_plugin("tiny-plugin", BACKBONE)
    pictures = draw_pictures(tmp_path / "pictures", 3)
    same = {"steps": 6, "ema": 0.9, "precision": "bf16"}
    whole = prepare_run(pictures, tmp_path / "whole", **same)
    assert whole.device.type == "cuda"
    expected = whole.run()["loss"]
    with pytest.raises(KeyboardInterrupt):
        stop_after(prepare_run(pictures, tmp_path / "parts", **same), 3).run()
    resumed = prepare_run(pictures, tmp_path / "parts", resume=True, **same)
    assert resumed.step == 3
    assert resumed.run()["loss"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_pipeline_is_put_where_it_is_wanted(device):
    assert naf_hub.load("bilinear", backbone="pico", device=device)(torch.rand(1, 3, 64, 64))[0].is_cuda
