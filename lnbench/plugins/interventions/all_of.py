"""``all_of``: several interventions in one override."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import Needs, OverrideContext, hookimpl
from lnbench.host import between_languages, get_host, needs_of_intervention, reads_statistics
from lnbench.written_values import Layers

if TYPE_CHECKING:
    from lnbench.override_values import LayerOverride, Override


def _in_full(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(get_host().format("intervention", part) for part in parts)


@dataclass
class AllOf:
    """Do several things at once: ``all_of:[zero:layers=0-3]:[scale:factor=2:layers=4-7]``.

    Each part sees the same neurons, Statistics and pair of languages. Two parts that write the same unit are refused:
    the result would depend on their order.
    """

    plain_name: ClassVar[str] = "several at once: {parts}"

    parts: Annotated[tuple[str, ...], AfterValidator(_in_full)] = Field(
        min_length=1, description="interventions, each in brackets: [a]:[b]"
    )
    layers: Layers = None

    @property
    def between_languages(self) -> bool:
        """Whether a part needs a source beside the target."""
        return any(map(between_languages, self.parts))

    @property
    def reads_statistics(self) -> bool:
        """Whether a part does."""
        return any(map(reads_statistics, self.parts))

    @property
    def needs(self) -> Needs:
        """What the Statistics that the parts read must hold."""
        sites = [needs_of_intervention(part).sites for part in self.parts]
        return Needs(sites=tuple(dict.fromkeys(site for own in sites for site in own)))

    def override(self, context: OverrideContext) -> Override:
        from lnbench.choices import plan
        from lnbench.override_values import Override

        here = context.within(self.layers)
        fields = {
            name: getattr(here, name) for name in ("target", "source", "languages", "neurons_of", "statistics_of")
        }
        changes = [(part, plan(here.neurons, part, here.statistics, **fields)) for part in self.parts]
        for (first, one), (second, other) in combinations(changes, 2):
            _check_apart(first, one, second, other)
        parts: dict[int, list[LayerOverride]] = {}
        for _, change in changes:
            for layer, part in change.parts:
                parts.setdefault(layer, []).append(part)
        positions = {change.positions for _, change in changes if change.neurons}
        if len(positions) > 1:
            raise LnbenchError(
                f"intervention 'all_of': its parts are written at different tokens ({', '.join(sorted(positions))}); "
                "measure them apart"
            )
        return Override(parts, positions=positions.pop() if positions else "all")


def _check_apart(first: str, one: Override, second: str, other: Override) -> None:
    """Raise if two parts write the same unit of the same site."""
    import torch

    written = one.by_site()
    for place, parts in other.by_site().items():
        indices = torch.cat([part.indices for part in parts])
        for part in written.get(place, ()):
            if common := part.indices[torch.isin(part.indices, indices)].tolist():
                layer, site = place
                raise LnbenchError(
                    f"intervention 'all_of': [{first}] and [{second}] both write unit ({layer}, {min(common)})"
                    + (f" of site {site!r}" if site else "")
                    + "; give them different layers=, or leave one out"
                )


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("all_of", AllOf)
