"""The joint bilateral filter as the NAF paper uses it for upsampling."""

from __future__ import annotations

from torch import Tensor

from naf_hub import Normalize, Promises, Upsampler
from naf_hub.parts.pieces import Range, assemble, split_channels
from naf_hub.parts.precision import without_autocast, working_dtype

from .bilateral import tap_average, tap_weights
from .interpolation import resize
from .parameters import check_window


class JointBilateral(Upsampler):
    """JBF as the NAF paper evaluates it (Tab. 1 and 3), after Petschnigg et al. 2004.

    The features are upsampled bilinearly by four whatever the output; the image, ImageNet-normalised
    inside, is resized to that grid without antialias; a joint bilateral filter runs there and
    its result is resized bilinearly to the output. ``sigma_color`` is in normalised units, so the default is
    about 0.02 in [0, 1], summed over channels: very selective. No weights.

    Args:
        kernel_size, sigma_color, sigma_spatial, color_distance: see
            :func:`naf_hub_filters.bilateral.joint_bilateral_filter`; its pixels are those of the grid four
            times the features'.

    Raises:
        ValueError: see :func:`naf_hub_filters.bilateral.joint_bilateral_filter`.
    """

    FACTOR = 4

    promises = Promises(linear_groups=1, range=True, translation=True, open_sizes=True)

    def __init__(
        self,
        kernel_size: int = 5,
        sigma_color: float = 0.1,
        sigma_spatial: float = 1.5,
        color_distance: str = "l1",
    ) -> None:
        super().__init__()
        check_window(kernel_size, sigma_color, sigma_spatial, color_distance)
        self.kernel_size = kernel_size
        self.sigma_color = sigma_color
        self.sigma_spatial = sigma_spatial
        self.color_distance = color_distance
        self.normalize = Normalize()

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, sigma_color={self.sigma_color}, "
            f"sigma_spatial={self.sigma_spatial}, color_distance={self.color_distance!r}"
        )

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        guidance = self.normalize(image.to(working_dtype(features.dtype)))
        return self.filter(guidance, features, output_size)

    def filter(self, guidance: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        """As :meth:`forward`, for an image that is already normalised."""
        return _upsample(guidance, features, output_size, self)


@without_autocast
def _upsample(guidance: Tensor, features: Tensor, size: tuple[int, int], model: JointBilateral) -> Tensor:
    dtype = working_dtype(features.dtype)
    grid = (model.FACTOR * features.shape[-2], model.FACTOR * features.shape[-1])
    guidance = resize(guidance.to(dtype), grid)
    weights = tap_weights(
        guidance, model.kernel_size, model.sigma_color, model.sigma_spatial, model.color_distance
    )

    def piece(channels: Range, rows: Range, cols: Range) -> Tensor:
        upsampled = resize(features[:, slice(*channels)].to(dtype), grid)
        return resize(tap_average(upsampled, weights), size)

    shape = (features.shape[0], features.shape[1], *size)
    chunks = split_channels(shape, 3 * grid[0] * grid[1] + size[0] * size[1], dtype.itemsize)
    return assemble(piece, shape, features, [weights], channels=chunks)
