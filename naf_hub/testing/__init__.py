"""The conformance suite: what every upsampler, backbone and restorer must do, for plugin authors to call from pytest.

    import pytest
    from naf_hub.testing import UPSAMPLER_CHECKS, check_upsampler

    @pytest.mark.parametrize("check", UPSAMPLER_CHECKS)
    def test_conformance(check):
        check_upsampler("my_upsampler", checks=[check])

Models are made with random weights (``weights=None``) by registered name, so that names, targets and options
are tested too. A failure is an ``AssertionError`` that says which promise was broken.
"""

from __future__ import annotations

from .backbones import BACKBONE_CHECKS, check_backbone
from .restorers import RESTORER_CHECKS, check_restorer
from .subject import Subject
from .upsamplers import UPSAMPLER_CHECKS, check_upsampler

__all__ = [
    "BACKBONE_CHECKS",
    "RESTORER_CHECKS",
    "UPSAMPLER_CHECKS",
    "Subject",
    "check_backbone",
    "check_restorer",
    "check_upsampler",
]
