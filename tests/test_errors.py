"""What users see of errors and warnings."""

from __future__ import annotations

import warnings

import torch

from lnbench import LayerOverride
from lnbench.errors import show_deprecations


def test_deprecations_of_the_contract_are_seen_though_python_hides_those_of_libraries() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("ignore", DeprecationWarning)
        LayerOverride(torch.tensor([1]), torch.tensor([1.0]), "shift")
        assert seen == []
        show_deprecations()
        LayerOverride(torch.tensor([1]), torch.tensor([1.0]), "shift")
        warnings.warn("of another library", DeprecationWarning, stacklevel=1)
    assert [str(warning.message).count("shift") for warning in seen] == [1]
