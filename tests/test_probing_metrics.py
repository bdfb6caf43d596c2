"""Scores of the probe against the published metric."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from naf_hub import Backbone, Normalize, Promises, Upsampler
from naf_hub.confusion import Confusion, class_table
from naf_hub_probing.head import upsampled_scores
from naf_hub_probing.metrics import BANDS, Scores, boundary_band, predict

GOLDEN = load_file(Path(__file__).parent / "goldens" / "segmentation_metrics.safetensors")
CLASSES = 7


class StandIn(Backbone):
    def __init__(self) -> None:
        super().__init__(embed_dim=16, patch_size=4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))

    def extract(self, image: Tensor) -> Tensor:
        return F.conv2d(image, GOLDEN["backbone_weight"], stride=4)


class Recorder(Upsampler):
    """Bilinear; keeps what it saw after its own normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.seen: list[Tensor] = []

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        self.seen.append(self.normalize(image))
        return F.interpolate(features, output_size, mode="bilinear")


def golden_scores(index: int, upsampler: Upsampler) -> tuple[Tensor, Tensor]:
    image = GOLDEN[f"image_{index}"]
    head = (GOLDEN["classifier_weight"][:, :, 0, 0], GOLDEN["classifier_bias"])
    label = GOLDEN[f"label_{index}"].long()
    label = torch.where(label == 255, -1, label)
    size = (label.shape[1], label.shape[2])
    return next(upsampled_scores(upsampler, image, StandIn()(image), size, [head])), label


@pytest.mark.parametrize("groups", [None, 1], ids=["features", "scores"])
def test_forward_pass_matches_golden(groups: int | None) -> None:
    for index in range(3):
        upsampler = Recorder()
        upsampler.promises = Promises(linear_groups=groups)
        scores, label = golden_scores(index, upsampler)
        torch.testing.assert_close(scores, GOLDEN[f"logits_{index}"], atol=1e-4, rtol=0)
        torch.testing.assert_close(upsampler.seen[0], GOLDEN[f"guidance_{index}"], atol=1e-6, rtol=1e-6)
        valid = label != -1
        flat = scores.permute(0, 2, 3, 1)[valid]
        torch.testing.assert_close(flat, GOLDEN[f"valid_logits_{index}"], atol=1e-4, rtol=0)
        assert torch.equal(label[valid], GOLDEN[f"valid_target_{index}"])


def test_scores_match_golden_and_not_the_decoys() -> None:
    confusion = Confusion(CLASSES)
    for index in range(3):
        scores, label = golden_scores(index, Recorder())
        confusion.update(scores.argmax(1), label)
    assert torch.equal(confusion.counts, GOLDEN["confusion"])
    torch.testing.assert_close(confusion.iou(), GOLDEN["iou_per_class"], atol=1e-6, rtol=0, equal_nan=True)
    assert torch.equal(confusion.iou().isfinite(), GOLDEN["present"])
    assert confusion.mean_iou() == pytest.approx(float(GOLDEN["miou"]), abs=1e-6)
    assert confusion.accuracy() == pytest.approx(float(GOLDEN["accuracy"]), abs=1e-6)
    for decoy in ("miou_over_all_classes", "miou_gt_classes_only"):
        assert abs(confusion.mean_iou() - float(GOLDEN[decoy])) > 1e-3


def test_prediction_is_the_highest_score_and_the_first_of_equals() -> None:
    torch.manual_seed(0)
    scores = torch.randint(-3, 4, (6, 40, 50)).float()
    assert torch.equal(predict(scores), scores.argmax(0))
    distinct = torch.randn(6, 40, 50)
    assert torch.equal(predict(distinct), distinct.argmax(0))
    assert (predict(torch.ones(3, 2, 2)) == 0).all()


def test_rows_are_targets_and_ignored_pixels_do_not_count() -> None:
    confusion = Confusion(3)
    confusion.update(torch.tensor([1, 1, 2, 0]), torch.tensor([0, 1, -1, 0]))
    assert confusion.counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert confusion.iou().tolist()[:2] == [0.5, 0.5]
    assert math.isnan(confusion.iou()[2])
    assert confusion.accuracy() == pytest.approx(2 / 3)


def test_classes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"target holds classes outside 0\.\.2"):
        Confusion(3).update(torch.tensor([0]), torch.tensor([3]))
    with pytest.raises(ValueError, match="prediction holds"):
        Confusion(3).update(torch.tensor([3]), torch.tensor([0]))
    with pytest.raises(ValueError, match="differ in shape"):
        Confusion(3).update(torch.zeros(2, 2), torch.zeros(2, 3))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_band_holds_the_pixels_near_another_class(width: int) -> None:
    """Against the plain loop; ignored pixels neither belong to a band nor make one."""
    label = torch.randint(0, 2, (5, 6)).repeat_interleave(7, 0).repeat_interleave(7, 1)
    label[10:14] = -1
    found = boundary_band(label, width)
    height, wide = label.shape
    for y in range(height):
        for x in range(wide):
            near = label[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
            others = (near != label[y, x]) & (near != -1)
            assert found[y, x] == bool(label[y, x] != -1 and others.any())


def test_one_class_has_no_boundary() -> None:
    label = torch.zeros(6, 6, dtype=torch.int64)
    label[:3] = -1
    assert not boundary_band(label, 2).any()


def test_bands_are_scored_by_themselves() -> None:
    """Right away from the boundary, wrong at it: only the bands see it."""
    target = torch.zeros(1, 20, dtype=torch.int64)
    target[:, 10:] = 1
    prediction = target.clone()
    prediction[:, 10] = 0
    scores = Scores(2)
    scores.update(prediction, target, {width: boundary_band(target, width) for width in BANDS})
    assert scores.whole.accuracy() == pytest.approx(19 / 20)
    assert [scores.bands[width].accuracy() for width in (2, 5)] == [
        pytest.approx(3 / 4),
        pytest.approx(9 / 10),
    ]
    assert scores.bands[2].mean_iou() == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_figures_of_classes_stand_under_the_name_of_their_row() -> None:
    columns = {"bilinear": {"sky": 7.25, "wall": None}, "naf": {"sky": 10.0, "wall": 0.0}}
    assert class_table("IoU:", ["sky", "wall"], columns).splitlines() == [
        "IoU:",
        "      bilinear   naf",
        "sky        7.2  10.0",
        "wall         -   0.0",
    ]
