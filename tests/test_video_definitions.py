"""Label propagation and its measures: the goldens, hand-made cases, and memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from naf_hub_video.mask_scores import (
    VideoScores,
    boundary_measure,
    dataset_figures,
    official_boundary,
    region_similarity,
    script_boundary,
    summarise,
)
from naf_hub_video.propagation import Propagation, carry_labels, tile_side
from naf_hub_video.soft_masks import first_labels, mask_of
from naf_hub_video.video_protocol import VideoProtocol


def read(path):
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


@pytest.mark.parametrize("memory", [None, 40_000])
def test_a_step_is_the_published_one_in_tiles_too(goldens, memory):
    golden, facts = read(goldens / "video_propagation_step.safetensors")
    shape = golden["target_feature"].shape[1:]
    target = F.normalize(golden["target_feature"][0], dim=0)
    features = [F.normalize(f, dim=0).reshape(shape) for f in golden["source_features"]]
    for name, case in json.loads(facts["cases"]).items():
        protocol = VideoProtocol(topk=case["topk"], radius=case["radius"])
        found = carry_labels(target, features, list(golden["source_segs"]), protocol, memory)
        torch.testing.assert_close(found, golden[f"seg_{name}"][0], atol=1e-5, rtol=0)


def test_a_sequence_is_the_published_one(goldens):
    golden, facts = read(goldens / "video_sequence.safetensors")
    known = {key: json.loads(value) for key, value in facts.items()}
    protocol = VideoProtocol(
        topk=known["topk"], radius=known["radius"], factor=known["ups_factor"], context=known["n_last_frames"]
    )
    truth = golden["gt_masks"].numpy()
    first = first_labels(truth[0], tuple(known["label_grid"]))
    torch.testing.assert_close(first, golden["first_seg"][0])
    propagation = Propagation(golden["features"][0], first, protocol)
    for number, features in enumerate(golden["features"][1:], 1):
        soft = propagation.step(features)
        torch.testing.assert_close(soft, golden["soft_segs"][number - 1], atol=1e-5, rtol=0)
        mask = mask_of(soft, known["patch_size"], protocol.factor, tuple(known["original_size"]))
        np.testing.assert_array_equal(mask, golden["predicted"][number].numpy())


def test_scores_are_the_official_ones_and_those_of_the_script(goldens):
    golden, _ = read(goldens / "video_metrics.safetensors")
    pairs = {
        n: list(zip(golden["pred"][n].bool().numpy(), golden["gt"][n].bool().numpy(), strict=True))
        for n in (0, 1)
    }
    for n, own in pairs.items():
        found = {
            "J": [region_similarity(a, b) for a, b in own],
            "F_official": [boundary_measure(a, b) for a, b in own],
            "F_naf": [boundary_measure(a, b, script_boundary, nothing=0.0) for a, b in own],
        }
        for key, values in found.items():
            np.testing.assert_allclose(values, golden[f"{key}_{n}"], atol=1e-9)
            np.testing.assert_allclose(summarise(values), golden[f"stats_{key}_{n}"], atol=1e-9)
    for frame in (0, 3):
        truth = pairs[0][frame][1]
        np.testing.assert_array_equal(
            official_boundary(truth), golden[f"boundary_official_gt0_{frame}"].bool()
        )
        np.testing.assert_array_equal(script_boundary(truth), golden[f"boundary_naf_gt0_{frame}"].bool())


def drawn(shapes, size):
    y, x = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, dtype=bool)
    for kind, a, b, c, d in shapes:
        mask |= (
            (y - a) ** 2 + (x - b) ** 2 <= c**2 if kind == "disk" else (y >= a) & (y < b) & (x >= c) & (x < d)
        )
    return mask


def test_the_tolerance_is_a_disc_at_full_size(goldens):
    golden, facts = read(goldens / "video_metrics.safetensors")
    for n, case in enumerate(json.loads(facts["big"])):
        found, truth = (drawn(case[key], case["size"]) for key in ("pred", "gt"))
        assert region_similarity(found, truth) == pytest.approx(float(golden["big_J"][n]), abs=1e-9)
        assert boundary_measure(found, truth) == pytest.approx(float(golden["big_F_official"][n]), abs=1e-9)
        script = boundary_measure(found, truth, script_boundary, nothing=0.0)
        assert script == pytest.approx(float(golden["big_F_naf"][n]), abs=1e-9)


def test_the_ends_are_not_scored_and_objects_weigh_alike():
    """One video of an object that is always found, one of two that never are; the ends of the first are wrong."""
    truth = np.zeros((5, 20, 20), dtype=np.uint8)
    truth[:, 4:12, 4:12] = 1
    found = truth.copy()
    found[[0, -1]] = 0
    good = VideoScores.of(found, truth)
    both = truth.copy()
    both[:, 14:18, 14:18] = 2
    bad = VideoScores.of(np.zeros_like(both), both)
    figures = dataset_figures([good, bad])
    assert figures["jf_mean"] == pytest.approx(100 / 3)
    assert figures["j_recall"] == pytest.approx(100 / 3)
    assert len(good.objects[0].j) == 3
    with pytest.raises(ValueError, match="an object 2; the true ones go up to 1"):
        VideoScores.of(both, truth)


def test_an_object_that_comes_later_counts_for_the_script_alone():
    truth = np.zeros((5, 20, 20), dtype=np.uint8)
    truth[:, 4:12, 4:12] = 1
    found = truth.copy()
    truth[2:, 14:18, 14:18] = 2
    figures = dataset_figures([VideoScores.of(found, truth)])
    assert figures["jf_mean"] == pytest.approx(100)
    assert figures["script_jf_mean"] < 80


class Largest(TorchDispatchMode):
    """Notes the largest number of elements that any operation gave."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for found in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(found, torch.Tensor):
                self.elements = max(self.elements, found.numel())
        return result


def test_no_matrix_of_all_cells_is_ever_made():
    """A grid of 40x40 and three frames have 7.7 million affinities; 0.25 million at a time are allowed."""
    torch.manual_seed(0)
    features = [F.normalize(torch.randn(3, 40, 40), dim=0) for _ in range(4)]
    labels = list(torch.rand(3, 2, 40, 40))
    protocol = VideoProtocol(topk=5, radius=3)
    with Largest() as seen:
        tiled = carry_labels(features[0], features[1:], labels, protocol, memory=1_000_000)
    assert 10_000 < seen.elements <= 250_000
    torch.testing.assert_close(
        tiled, carry_labels(features[0], features[1:], labels, protocol), atol=1e-5, rtol=0
    )


def test_tiles_fit_the_budget_whatever_the_grid():
    for height, width, radius, frames in [
        (64, 64, 24, 8),
        (960, 1708, 24, 8),
        (28, 28, 0, 8),
        (300, 20, 200, 2),
    ]:
        side = tile_side(height, width, radius, frames, 2**26)
        near = [length if not radius else min(length, side + 2 * radius) for length in (height, width)]
        assert side >= 1
        assert 4 * frames * min(side, height) * min(side, width) * near[0] * near[1] <= 2**26


def test_equals_of_the_smallest_that_stays_stay_too():
    """Blocks of four equal cells, as nearest makes them: with one to keep, all four do."""
    blocks = F.normalize(torch.randn(6, 4, 4), dim=0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    labels = torch.rand(1, 8, 8)
    found = carry_labels(blocks, [blocks], [labels], VideoProtocol(topk=1, radius=2))
    means = F.avg_pool2d(labels[None], 2)[0].repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(found, means, atol=1e-4, rtol=0)


def test_a_square_that_moves_is_followed_to_the_cell():
    """Features tell the square and its inner places from what surrounds it: the mask moves with it, if near enough."""
    generator = torch.Generator().manual_seed(0)
    background, square = (
        torch.randn(16, 1, 1, generator=generator),
        torch.randn(16, 6, 6, generator=generator),
    )
    frames, truth = [], np.zeros((6, 48, 48), dtype=np.uint8)
    for number in range(6):
        frame = background.repeat(1, 24, 24)
        frame[:, 4 + number : 10 + number, 3 + 2 * number : 9 + 2 * number] = square
        frames.append(frame)
        truth[number, 2 * (4 + number) : 2 * (10 + number), 2 * (3 + 2 * number) : 2 * (9 + 2 * number)] = 1
    propagation = Propagation(
        frames[0], first_labels(truth[0], (24, 24)), VideoProtocol(topk=1, radius=4, context=2)
    )
    found = [mask_of(propagation.step(frame), 4, 2, (48, 48)) for frame in frames[1:]]
    for mask, true in zip(found, truth[1:], strict=True):
        np.testing.assert_array_equal(mask, true)
    lost = Propagation(
        frames[0], first_labels(truth[0], (24, 24)), VideoProtocol(topk=1, radius=1, context=2)
    )
    for frame in frames[1:]:
        mask = mask_of(lost.step(frame), 4, 2, (48, 48))
    assert region_similarity(mask == 1, truth[-1] == 1) < 0.5, "what moves faster than the radius is lost"


def test_a_mask_of_one_label_alone_is_that_label():
    """0 / 0 of a channel without span must not decide."""
    soft = torch.zeros(3, 4, 4)
    soft[2] = 1
    assert (mask_of(soft, 2, 1, (8, 8)) == 2).all()
    assert (mask_of(torch.ones(1, 4, 4), 2, 1, (8, 8)) == 0).all()


def test_settings_that_make_no_sense_are_one_line():
    assert VideoProtocol.read({}) == VideoProtocol(448, 2, 20, 24)
    assert VideoProtocol.read({"preset": "code", "topk": 9}) == VideoProtocol(None, 1, 9, 12)
    assert VideoProtocol.read({"preset": "code"}).working_size((480, 854), 14) == (476, 854)
    assert VideoProtocol.read({"videos": "dog"}).videos == ("dog",)
    for settings, words in [
        ({"preset": "dino"}, "no preset 'dino'; there are: paper, code, lift"),
        ({"preset": ["lift"]}, "no preset"),
        ({"k": 5}, "unknown key 'k'; keys: size"),
        ({"topk": "5"}, "topk = '5': must be a whole number"),
        ({"topk": 0}, "topk must be at least 1"),
        ({"radius": -1}, "radius must not be negative"),
        ({"temperature": 0.0}, "temperature must be at least"),
        ({"guidance": "none"}, "guidance must be grid or frame"),
        ({"length": 2}, "length must be 0 or at least 3"),
    ]:
        with pytest.raises(ValueError, match=words):
            VideoProtocol.read(settings)
    with pytest.raises(ValueError, match="smaller than the backbone's patch of 16"):
        VideoProtocol(size=12).working_size((480, 854), 16)
