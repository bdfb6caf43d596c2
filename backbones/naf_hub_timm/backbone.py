"""Any timm model with a spatial feature map, as a backbone."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub import Backbone, ForeignWeights, MapError, Want, WeightsError
from naf_hub.checks import warn_caller
from naf_hub.interfaces import Shape, Step
from naf_hub.parts.transformer_maps import layer_index, transformer_maps

# How timm lets a model of fixed input size take others: vision transformers, then windowed ones (Swin).
ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False})
# Models whose forward_intermediates refuses norm=True instead of ignoring it.
NO_NORM = ("Hiera", "HieraDet")
# Models whose blocks pass a plain sequence of tokens on, and attentions that project it in thirds.
SEQUENCES = {"VisionTransformer", "Eva", "Beit", "NaFlexVit"}
ATTENTIONS = {"Attention", "EvaAttention", "AttentionRope"}
# Options with which timm reads pickles from anywhere; those of a config must not reach it.
FETCHING = {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
OWN = "model."  # what state dicts of this class put before timm's names


def create(
    model: str, options: Mapping[str, Any], any_size: Sequence[Mapping[str, Any]] = ANY_SIZE
) -> tuple[Any, bool]:
    """Build a timm model without its classifier, for any input size where it has an option for that.

    Returns:
        (model, whether such an option was accepted).

    Raises:
        ValueError: timm would fetch or read files for it.
    """
    if found := sorted(FETCHING & options.keys()) or [model] * (":" in model):
        raise ValueError(
            f"timm model {model!r}: {found[0]} would have timm fetch or read files; pass weights="
        )
    for extra in any_size:
        if extra.keys() & options.keys():
            continue
        try:
            return timm.create_model(model, pretrained=False, num_classes=0, **extra, **options), True
        except TypeError as error:
            if not any(key in str(error) for key in extra):
                raise
    return timm.create_model(model, pretrained=False, num_classes=0, **options), False


class TimmBackbone(Backbone, ForeignWeights):
    """Dense features of a timm model: (B, 3, H, W) in [0, 1] to (B, embed_dim, H/patch_size, W/patch_size).

    Class and register tokens are dropped, maps that timm keeps channels-last inside come out
    channels-first, and position embeddings are resampled to the grid as timm does. Models that cannot take
    another input size get the image resized to theirs, with a warning; ``img_size=`` builds them for another.

    Args:
        model: timm name, with or without a pretrained tag.
        stride: take the last stage of this stride instead of the last stage of all; later layers are removed.
        layer: take this entry of timm's ``feature_info`` (a block of a vision transformer, a stage of a
            convolutional or hierarchical model); negative counts from the end.
        norm: apply the model's final norm, where it has one outside its head.
        head_norm: also apply the norm of the pooling head to the map, as DINOv3's own code does for its
            ConvNeXts.
        layer_norm: normalise every feature vector behind all that, without learned scale or shift: for layers that no
            norm of the model's fits.
        mean, std: instead of the normalisation in the model's pretrained configuration.
        options: passed to ``timm.create_model`` (``img_size``, ``pad_type``, ...).

    Raises:
        ValueError: no feature map, no such layer, or no layer of that stride.
        TypeError: an option that this timm model does not have.
    """

    def __init__(
        self,
        model: str,
        *,
        stride: int | None = None,
        layer: int | None = None,
        norm: bool = True,
        head_norm: bool = False,
        layer_norm: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        network, any_size = create(model, options)
        if not hasattr(network, "forward_intermediates") or not getattr(network, "feature_info", None):
            raise ValueError(f"timm model {model!r} gives no spatial feature map")
        levels = [dict(level) for level in network.feature_info]
        index = choose_level(model, levels, stride, layer)
        config: Mapping[str, Any] = network.pretrained_cfg
        channels = levels[index]["num_chs"]
        super().__init__(
            embed_dim=levels[index].get("num_chs_norm", channels) if norm else channels,
            patch_size=levels[index]["reduction"],
            mean=mean or config["mean"],
            std=std or config["std"],
        )
        self.name = model
        self.options = dict(options)
        self._whole: set[str] | None = None
        self.index = index
        self.norm = norm and type(network).__name__ not in NO_NORM
        network.prune_intermediate_layers([index], prune_norm=not norm, prune_head=not head_norm)
        self.model: Any = network
        self.head_norm = head_norm
        self.layer_norm = layer_norm
        self.fixed_size = None if any_size else self._fixed_size(config)
        self.strides = reductions(levels)

    def _fixed_size(self, config: Mapping[str, Any]) -> tuple[int, int] | None:
        """(H, W) if the model takes that size only. timm's ``fixed_input_size`` flag is also set for models
        that resample their positions themselves (SAM), so it is tried, on a device that computes nothing."""
        if not config.get("fixed_input_size"):
            return None
        size = self.options.get("img_size") or tuple(config["input_size"])[1:]
        height, width = (size, size) if isinstance(size, int) else size
        with torch.device("meta"):
            twin, _ = create(self.name, self.options, ())
            try:
                # Not square, and no multiple of the native size: nothing may pass by luck.
                image = torch.empty(1, 3, height + self.patch_size, width + 3 * self.patch_size)
                twin.eval().forward_intermediates(image, indices=[self.index], intermediates_only=True)
            except (AssertionError, RuntimeError, ValueError):
                return (height, width)
        return None

    def fit(self, image: Tensor) -> Tensor:
        """See :meth:`naf_hub.Backbone.fit`; a model of one input size gets the image resized to that.

        Raises:
            ValueError: the stride does not divide that size.
        """
        if self.fixed_size is None:
            return super().fit(image)
        if any(side % self.patch_size for side in self.fixed_size):
            strides = [n for n in self.strides if not any(side % n for side in self.fixed_size)]
            raise ValueError(
                f"timm model {self.name!r} takes {'x'.join(map(str, self.fixed_size))} images only, not "
                f"divisible by its stride {self.patch_size}; pass stride={' or '.join(map(str, strides))}"
            )
        if tuple(image.shape[-2:]) == self.fixed_size:
            return image
        given, size = ("x".join(map(str, s)) for s in (image.shape[-2:], self.fixed_size))
        warn_caller(
            f"image resized from {given} to {size}, the only size that timm model "
            f"{self.name!r} takes; build it for another with img_size="
        )
        return F.interpolate(image, self.fixed_size, mode="bilinear", antialias=True)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Feature grid (h, w) for an image of ``height`` x ``width`` pixels."""
        return super().grid(*(self.fixed_size or (height, width)))

    def extract(self, image: Tensor) -> Tensor:
        """(B, embed_dim, h, w) of a normalised image whose sides are multiples of ``patch_size``."""
        (features,) = self.model.forward_intermediates(
            image, indices=[self.index], norm=self.norm, output_fmt="NCHW", intermediates_only=True
        )
        height, width = image.shape[-2:]
        if features.ndim != 4 or tuple(features.shape[-2:]) != (
            height // self.patch_size,
            width // self.patch_size,
        ):
            raise ValueError(
                f"timm model {self.name!r} gives {tuple(features.shape)} for {height}x{width} pixels, not "
                f"one cell every {self.patch_size}: its cells do not tile the image"
            )
        return self._standard(self.model.head.norm(features) if self.head_norm else features)

    def _standard(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w) with ``layer_norm`` applied, if it is asked for."""
        if not self.layer_norm:
            return features
        return F.layer_norm(features.movedim(1, -1), features.shape[1:2]).movedim(-1, 1)

    def _final_norm(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) behind the norms of this backbone."""
        tokens = self.model.norm(tokens) if self.norm else tokens
        return F.layer_norm(tokens, tokens.shape[-1:]) if self.layer_norm else tokens

    def extract_maps(self, image: Tensor, wants: Sequence[Want]) -> tuple[Tensor, ...]:
        """See :meth:`naf_hub.Backbone.extract_maps`; layers are entries of timm's ``feature_info`` up to this one.

        Plain vision transformers have every kind of map, a class token if the model does. Others (convolutional,
        windowed, hierarchical) have tokens only, of each stage on its own grid; wants with and without norm take
        them one pass each. ``head_norm`` follows the last layer's normed tokens only.
        """
        if all(want == Want() for want in wants):
            return (self.extract(image),) * len(wants)
        if is_sequence(self.model):
            grid = (image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size)
            embeds = getattr(self.model, "embeds", self.model)
            return transformer_maps(
                f"timm model {self.name!r}",
                lambda: self.extract(image),
                wants,
                blocks=self.model.blocks,
                attentions=[block.attn for block in self.model.blocks],
                final_norm=self._final_norm,
                prefix=self.model.num_prefix_tokens,
                class_token=getattr(embeds, "cls_token", None) is not None,
                grid=grid,
            )
        return self._stages(image, wants)

    def _stages(self, image: Tensor, wants: Sequence[Want]) -> tuple[Tensor, ...]:
        owner, count = f"timm model {self.name!r}", self.index + 1
        layers = [layer_index(owner, want, count) for want in wants]
        for want in wants:
            if want.kind != "token":
                raise MapError(f"{owner} has no {want.name}: it has tokens of layers 0 to {self.index} only")
        asked = [(layer, want.norm and self.norm) for want, layer in zip(wants, layers, strict=True)]
        found: dict[tuple[int, bool], Tensor] = {}
        for norm in {norm for _, norm in asked}:
            indices = sorted({layer for layer, normed in asked if normed == norm})
            maps = self.model.forward_intermediates(
                image, indices=indices, norm=norm, output_fmt="NCHW", intermediates_only=True
            )
            found |= {(layer, norm): features for layer, features in zip(indices, maps, strict=True)}
        if self.head_norm and any(
            want.norm and i == self.index for want, i in zip(wants, layers, strict=True)
        ):
            last = (self.index, self.norm)
            normed = self.model.head.norm(found[last])
            maps = [
                normed if want.norm and layer == self.index else found[place]
                for want, layer, place in zip(wants, layers, asked, strict=True)
            ]
        else:
            maps = [found[place] for place in asked]
        return tuple(
            self._standard(found) if want.norm else found for want, found in zip(wants, maps, strict=True)
        )

    def plan_weights(self, shapes: Mapping[str, Shape]) -> dict[str, Step] | None:
        """For a file in timm's key names; ``None`` for one whose names or values timm converts (original DINOv2 keys,
        tables of positions of another size). See :class:`naf_hub.ForeignWeights`.

        Weights of parts this backbone does without (classifier, pooling head, later layers) are left out; batch
        counters may be missing. All else is strict.

        Raises:
            WeightsError: names missing, unexpected and misshapen keys.
        """
        blank = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        try:
            weights = self._converted(blank)
        except WeightsError:
            return None  # some conversions look at values
        weights = self._fitting(weights)
        prefix = OWN if all(name.startswith(OWN) for name in shapes) else ""
        if any(blank.get(prefix + key) is not value for key, value in weights.items()):
            return None
        return {OWN + key: (prefix + key, None) for key in weights}

    def convert_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What timm makes of a state dict that it converts, as far as this backbone needs it.

        Raises:
            WeightsError: names missing, unexpected and misshapen keys.
        """
        return {OWN + key: value for key, value in self._fitting(self._converted(state)).items()}

    def _converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``state`` in the key names and shapes of ``self.model``, as far as timm can bring it there."""
        weights = dict(state)
        if weights and all(key.startswith(OWN) for key in weights):
            weights = {key.removeprefix(OWN): value for key, value in weights.items()}
        convert = getattr(sys.modules[type(self.model).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            return weights
        try:
            return convert(weights, self.model)
        except (KeyError, IndexError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise WeightsError(
                f"weights do not fit timm model {self.name!r}: timm cannot convert their keys "
                f"({type(error).__name__}: {error})"
            ) from error

    def _fitting(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of ``weights`` that ``self.model`` needs; strict about all else."""
        expected = self.model.state_dict()
        missing = [k for k in expected if k not in weights and not k.endswith("num_batches_tracked")]
        unexpected = [k for k in weights if k not in expected]
        if unexpected:
            unused = self._unused_keys()
            unexpected = [k for k in unexpected if k not in unused]
        problems = [f"missing {k}" for k in missing] + [f"unexpected {k}" for k in unexpected]
        problems += [
            f"{k} has shape {tuple(weights[k].shape)}, expected {tuple(v.shape)}"
            for k, v in expected.items()
            if k in weights and weights[k].shape != v.shape
        ]
        if problems:
            more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
            raise WeightsError(
                f"weights do not fit timm model {self.name!r}: {'; '.join(problems[:4])}{more}; "
                "check the model name and the options they were made with"
            )
        return {k: v for k, v in weights.items() if k in expected}

    def _unused_keys(self) -> set[str]:
        """Keys of the whole timm model, classifier included; those not in ``self.model`` are not needed."""
        if self._whole is None:
            with torch.device("meta"):
                whole: Any = timm.create_model(self.name, pretrained=False, **self.options)
            classifier = whole.pretrained_cfg.get("classifier") or ()
            names = (classifier,) if isinstance(classifier, str) else classifier
            self._whole = {
                *whole.state_dict(),
                *(f"{n}.{kind}" for n in names for kind in ("weight", "bias")),
            }
        return self._whole


def is_sequence(network: Any) -> bool:
    """Whether a timm model is a transformer that :func:`~naf_hub.parts.transformer_maps.transformer_maps` reads."""
    if not SEQUENCES & {kind.__name__ for kind in type(network).__mro__}:
        return False
    return all(type(getattr(block, "attn", None)).__name__ in ATTENTIONS for block in network.blocks)


def network_of(network: Any) -> str:
    """What the record of a timm model states as its ``network``."""
    if not is_sequence(network):
        return "stages"
    return "timm" if hasattr(network, "patch_embed") else "transformer"


def reductions(levels: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({level["reduction"] for level in levels})


def choose_level(
    model: str, levels: Sequence[Mapping[str, Any]], stride: int | None, layer: int | None
) -> int:
    """Index into timm's ``feature_info`` for a wanted stride or layer, by default the last."""
    if stride is not None and layer is not None:
        raise ValueError("give stride or layer, not both")
    if layer is not None:
        if not -len(levels) <= layer < len(levels):
            raise ValueError(f"timm model {model!r} has layers 0 to {len(levels) - 1}, not {layer}")
        return layer % len(levels)
    if stride is None:
        return len(levels) - 1
    fitting = [i for i, level in enumerate(levels) if level["reduction"] == stride]
    if not fitting:
        strides = ", ".join(map(str, reductions(levels)))
        raise ValueError(f"timm model {model!r} has feature maps of stride {strides}, not {stride}")
    return fitting[-1]
