"""The torch.hub entry point, kept out of ``hubconf.py`` so that pip and torch.hub share one path.

Code that loads NAF from the authors' repository by torch.hub works with this one unchanged: same call, same names of
options, same values on the same state dict.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import naf_hub
from naf_hub.checks import check_features, check_image, check_output_size

from .model import NAF

# What the authors call these options of ours.
PUBLISHED_NAMES = {"heads_attn": "num_heads", "heads_rope": "rope_heads", "img_layers": "num_blocks"}


class PublishedNAF(NAF):
    """NAF as the authors' module is called: the image is used as it is given, without mean and standard deviation.

    Args:
        options: of :class:`~naf_hub_naf.model.NAF`, also under the authors' names ``heads_attn``, ``heads_rope`` and
            ``img_layers``.
    """

    def __init__(self, **options: Any) -> None:
        renamed: dict[str, Any] = {PUBLISHED_NAMES.get(key, key): value for key, value in options.items()}
        super().__init__(**{"normalize": False, **renamed})

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        image: Any,
        features: Any,
        output_size: Any = None,
        return_weights: bool = False,
        output: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """See :meth:`naf_hub.Upsampler.forward`.

        Args:
            image, features, output_size, output: as there, but ``image`` already ImageNet-normalised (or as the weights
                expect it).
            return_weights: also return the scaled logits before the softmax, as
                :meth:`~naf_hub_naf.model.NAF.attention_logits` gives them; not into an ``output``.
        """
        if not return_weights:
            return super().forward(image, features, output_size, output)
        if output is not None:
            raise ValueError("return_weights and output exclude each other; take the weights in another call")
        check_image(image, any_range=True)
        check_features(features, image)
        return self.filter_with_logits(image, features, check_output_size(output_size, image))


def naf(
    pretrained: bool = True, device: Any = "cpu", backbone: str | None = None, **options: Any
) -> nn.Module:
    """NAF in eval mode and frozen (``requires_grad_(True).train()`` to train it).

    Args:
        pretrained: the authors' weights (naf-hub's own behind a ``backbone``); ``False`` is random initialisation.
        device: where to put it.
        backbone: a registered backbone to put in front: then this is :func:`naf_hub.load`, which takes images in
            [0, 1] and normalises them inside.
        options: constructor options, under our names or the authors'.

    Returns:
        Without ``backbone`` a :class:`PublishedNAF`, else a :class:`naf_hub.FeaturePipeline`.
    """
    options = {PUBLISHED_NAMES.get(key, key): value for key, value in options.items()}
    if backbone is not None:
        chosen = {} if pretrained else {"weights": None}
        return naf_hub.load("naf", backbone, device=device, **chosen, **options)
    model = PublishedNAF(**options)
    if pretrained:
        model.load_state_dict(naf_hub.load("naf", weights="official", **options).state_dict())
    return model.eval().requires_grad_(False).to(device)
