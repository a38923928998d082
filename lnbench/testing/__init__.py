"""For authors of plugins: a suite of checks that a plugin keeps its contract, tiny models, and Statistics of them.

In a plugin's tests::

    from lnbench.testing import conformance

    @conformance("selector", MySelector, fraction=0.05)
    def test_my_selector(check):
        check()

Each check is a test of its own: pytest names it in what fails.
"""

from lnbench.testing.checks import Candidate, check_intervention, check_selector
from lnbench.testing.conformance import CHECKS, conformance
from lnbench.testing.tiny import LANGUAGES, SITES, TINY_CONFIG, VOCABULARY, dead_model, tiny_model, tiny_statistics

__all__ = [
    "CHECKS",
    "LANGUAGES",
    "SITES",
    "TINY_CONFIG",
    "VOCABULARY",
    "Candidate",
    "check_intervention",
    "check_selector",
    "conformance",
    "dead_model",
    "tiny_model",
    "tiny_statistics",
]
