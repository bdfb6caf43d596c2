"""FeatUp's implicit form: a small network fitted to one image and its features (arXiv 2403.10516, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from naf_hub import Normalize, Promises, Upsampler
from naf_hub.parts.jittered_views import Jitter, apply_jitter, draw_jitters
from naf_hub.parts.learned_downsampling import AttentionDownsampler, Spread, blurred, error_by_spread
from naf_hub.parts.precision import autocast_off, working_dtype
from naf_hub.terminal import progress_bar

from .implicit_network import implicit_network

# Published for images of 224 pixels: a border of 30, and patches of 29 pixels for cells of 16.
BORDER, REACH = 30 / 224, 29 / 16
LARGEST_ZOOM = 1.8
# Views whose features the principal components are taken of, and that the backbone sees in one pass.
FITTED_VIEWS, PASS = 50, 8


class Implicit(Upsampler):
    """Fit a network of colours and positions to one image, so that views of its result, taken down to the
    backbone's cells, are the features that the backbone gives of the same views.

    Nothing is trained beforehand and nothing is kept: each image is fitted anew, which takes about two hours on a
    CPU (see the README). The same image, features and seed give the same result, bit for bit on a CPU. The result
    has the image's size; where another is asked for it is resized (bilinear), since the network's highest frequencies
    mean nothing between the pixels it was fitted on.

    ``gather`` runs the backbone on ``views`` moved, zoomed and mirrored copies of the image. Features that come
    without such views, of no backbone at hand, are taken for the only view.

    Args:
        views: of the image.
        steps: of the optimiser.
        batch: views a step.
        components: principal components of the features that are fitted, at most their channels.
        n_freqs: frequencies of colours and positions.
        learning_rate: of NAdam.
        seed: of views, initial weights, dropout and the order of views.
        progress: show bars, one of views and one of steps; by default on a terminal, and in a log a line a minute.

    Raises:
        ValueError: a number below 1, or a learning rate that is not positive.
    """

    promises = Promises(
        constant=False, export=False, gradients=False, closed_sizes="it trains a network for each image"
    )

    def __init__(
        self,
        views: int = 3000,
        steps: int = 1200,
        batch: int = 10,
        components: int = 128,
        n_freqs: int = 30,
        learning_rate: float = 2e-3,
        seed: int = 0,
        progress: bool | None = None,
    ) -> None:
        super().__init__()
        counts = {
            "views": views,
            "steps": steps,
            "batch": batch,
            "components": components,
            "n_freqs": n_freqs,
        }
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        self.views, self.steps, self.batch, self.components = views, steps, batch, components
        self.n_freqs, self.learning_rate, self.seed, self.progress = n_freqs, learning_rate, seed, progress
        self.normalize = Normalize()

    def extra_repr(self) -> str:
        return (
            f"views={self.views}, steps={self.steps}, batch={self.batch}, components={self.components}, "
            f"n_freqs={self.n_freqs}, learning_rate={self.learning_rate}, seed={self.seed}"
        )

    def gather(self, image: Tensor, backbone: nn.Module) -> dict[str, Tensor]:
        """Features of the image and of its views; those of views without gradients, of which thousands would be held.

        Returns:
            ``token[-1]``: (B, C, h, w). ``views``: (B, V * D, h, w), D principal components of each view.
            ``components``: (B, D, C, 1). ``mean``: (B, C, 1, 1).
        """
        whole = super().gather(image, backbone)
        assert isinstance(whole, Tensor)
        samples = [self._gather_views(sample[None], backbone) for sample in image]
        found = {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}
        return {self.wants[0].name: whole, **found}

    def _jitters(self, count: int) -> list[Jitter]:
        return draw_jitters(count, self.seed, LARGEST_ZOOM, BORDER)

    @torch.no_grad()
    def _gather_views(self, image: Tensor, backbone: nn.Module) -> dict[str, Tensor]:
        jitters = self._jitters(self.views)
        fitted = None
        projected: list[Tensor] = []
        waiting: list[Tensor] = []
        # The first view alone, whose time says how long all will take.
        starts = [0, *range(1, len(jitters), PASS)]
        with self._bar(len(jitters), "features of views, 1 of 2", "view") as bar:
            for start, end in zip(starts, [*starts[1:], len(jitters)], strict=True):
                views = torch.cat([apply_jitter(image, jitter) for jitter in jitters[start:end]])
                features = super().gather(views.clamp(0, 1), backbone)
                assert isinstance(features, Tensor)
                waiting.append(features)
                if fitted is None and end >= min(FITTED_VIEWS, len(jitters)):
                    fitted = principal_components(torch.cat(waiting), self.components)
                if fitted is not None:
                    projected += [project(found, *fitted) for found in waiting]
                    waiting = []
                bar.update(end - start)
        assert fitted is not None
        components, mean = fitted
        return {
            "views": torch.cat(projected).flatten(0, 1)[None],
            "components": components[None, :, :, None],
            "mean": mean[None, :, None, None],
        }

    def upsample(self, image: Tensor, features: Any, output_size: tuple[int, int]) -> Tensor:
        given = features if isinstance(features, Mapping) else self._only_view(features)
        dtype = working_dtype(given[self.wants[0].name].dtype)
        guidance = self.normalize(image.to(dtype))
        outputs = []
        for i, sample in enumerate(guidance):
            views, components, mean = (
                given[k][i].detach().to(dtype) for k in ("views", "components", "mean")
            )
            components, mean = components[..., 0], mean[:, 0, 0]
            targets = views.unflatten(0, (-1, len(components)))
            jitters = self._jitters(len(targets)) if isinstance(features, Mapping) else [Jitter()]
            with autocast_off(image.device):
                maps = self._fit(sample[None].detach(), targets, jitters)
                if maps.shape[-2:] != output_size:
                    maps = F.interpolate(maps, output_size, mode="bilinear")
                whole = torch.einsum("bdhw,dc->bchw", maps, components) + mean[:, None, None]
            outputs.append(whole.to(given[self.wants[0].name].dtype))
        return torch.cat(outputs)

    def _only_view(self, features: Tensor) -> dict[str, Tensor]:
        samples = [principal_components(sample[None], self.components) for sample in features]
        return {
            self.wants[0].name: features,
            "views": torch.cat([project(s[None], *fit) for s, fit in zip(features, samples, strict=True)]),
            "components": torch.stack([components for components, _ in samples])[..., None],
            "mean": torch.stack([mean for _, mean in samples])[..., None, None],
        }

    def _fit(self, image: Tensor, targets: Tensor, jitters: list[Jitter]) -> Tensor:
        """The fitted network's map (1, D, H, W) of a normalised image, without gradients."""
        devices = [image.device] if image.device.type == "cuda" else []
        # The caller may have turned gradients off in either way; of inference mode only copies come out.
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
            image, targets = image.clone(), targets.clone()
            torch.manual_seed(self.seed)
            dim = targets.shape[1]
            rows, columns = (
                min(n, max(1, round(REACH * n / cells)))
                for cells, n in zip(targets.shape[-2:], image.shape[-2:], strict=True)
            )
            parts = nn.ModuleDict(
                {
                    "network": implicit_network(dim, self.n_freqs),
                    "down": AttentionDownsampler(dim + 1, (rows, columns)),
                    "spread": Spread(dim),
                }
            ).to(image)
            optimizer = torch.optim.NAdam(parts.parameters(), lr=self.learning_rate)
            with self._bar(self.steps, "fit, 2 of 2", "step") as bar:
                for _ in range(self.steps):
                    optimizer.zero_grad()
                    picked = torch.randint(len(targets), (self.batch,)).tolist()
                    _backward(parts, image, targets, jitters, picked)
                    optimizer.step()
                    bar.update()
        with torch.no_grad():
            return parts["network"].eval()(image)

    def _bar(self, total: int, title: str, unit: str) -> Any:
        facts: dict[str, Any] = {
            "desc": f"featup_implicit: {title}",
            "total": total,
            "unit": unit,
            "leave": False,
        }
        return (
            progress_bar(first=5, **facts)
            if self.progress is None
            else tqdm(disable=not self.progress, **facts)
        )


def _backward(
    parts: nn.ModuleDict, image: Tensor, targets: Tensor, jitters: list[Jitter], picked: list[int]
) -> None:
    """Gradients of one step: view by view, so that only one is held beside the map."""
    maps = parts["network"](image)
    whole = torch.cat((magnitude(maps), maps), dim=1)
    leaf = whole.detach().requires_grad_()
    for view in picked:
        target = targets[view : view + 1]
        output = parts["down"](apply_jitter(leaf, jitters[view]), target.shape[-2:])
        found, size = output[:, 1:], magnitude(target)
        loss = error_by_spread(found, target, parts["spread"](target))
        sizes = (output[:, :1] - size).square().mean() + (magnitude(found) - size).square().mean()
        ((loss + 1e-3 * sizes) / len(picked)).backward()
    size = whole[:, :1]
    variation = (size.diff(dim=2).square().sum() + size.diff(dim=3).square().sum()) / size.numel()
    roughness = (blurred(maps) - maps).square().mean()
    loss = 0.05 * variation + 0.1 * roughness
    torch.autograd.backward([whole, loss], [leaf.grad, torch.ones_like(loss)])


def magnitude(maps: Tensor) -> Tensor:
    """Length of the vector at each position (B, 1, H, W); never quite zero, where it would have no gradient."""
    return maps.square().sum(1, keepdim=True).clamp_min(1e-12).sqrt()


def principal_components(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Principal components (D, C), strongest first, D = min(count, C), and the mean (C,) of (B, C, h, w).

    The largest coordinate of each is positive: libraries return either sign, and what is fitted to them depends on it.
    """
    rows = features.detach().movedim(1, -1).flatten(0, -2).double()
    mean = rows.mean(0)
    _, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean))
    components = vectors.flip(1)[:, :count].T
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = components * largest.sign()
    return components.to(features.dtype), mean.to(features.dtype)


def project(features: Tensor, components: Tensor, mean: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, D, h, w)."""
    return torch.einsum("bchw,dc->bdhw", features - mean[:, None, None], components)
