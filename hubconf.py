"""torch.hub entry points: ``torch.hub.load("naf-hub/naf-hub", "naf")`` is called as the authors' own is.

Re-exports only; needs ``pip install naf-hub``.
"""

dependencies = ["naf_hub", "naf_hub_naf", "torch"]

from naf_hub_naf.torch_hub import naf  # noqa: E402, F401
