"""``none``: the unchanged model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from lnbench.hookspecs import OverrideContext, hookimpl

if TYPE_CHECKING:
    from lnbench.override_values import Override


@dataclass
class Unchanged:
    """Change nothing: the baseline."""

    plain_name: ClassVar[str] = "no intervention"
    changes_nothing: ClassVar[bool] = True
    reads_statistics: ClassVar[bool] = False

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import Override

        return Override({})


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("none", Unchanged)
