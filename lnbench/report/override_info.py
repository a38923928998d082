"""What lm-eval's results file says of the override in one cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lnbench.files import read_json


@dataclass(frozen=True)
class Told:
    """The part of ``config`` → ``lnbench`` in a results file that a report shows."""

    outside: float | None = None
    """Largest share of a language's written values that lie outside the range observed on text."""
    tokens: int = 0
    """Overridden."""
    read_site: str | None = None
    write_site: str | None = None
    neurons: Mapping[str, int] = field(default_factory=dict)
    """Of each language compared."""
    neuron_file: str | None = None
    fingerprint: str | None = None
    """Of the NeuronSet."""
    selector: str | None = None
    """As the records have it."""
    corpus: str | None = None
    corpus_tokens: int | None = None
    positions: str | None = None
    control: bool = False
    """Whether the neurons are random ones."""

    @classmethod
    def read(cls, path: Path) -> Told | None:
        """Read a results file; None where it was not lnbench that measured.

        Raises:
            LnbenchError: the file is missing or damaged.
        """
        config = _mapping(_mapping(read_json(path)).get("config"))
        if not (about := _mapping(config.get("lnbench"))):
            return None
        applied = [_mapping(one) for one in _mapping(about.get("applied")).values()]
        shares = [one.get("share_outside_observed_range") for one in applied]
        known = [share for share in shares if isinstance(share, int | float)]
        found = _mapping(about.get("neuron_set"))
        given = about.get("statistics")
        return cls(
            outside=max(known) if known else None,
            tokens=sum(one.get("tokens_overridden") or 0 for one in applied),
            read_site=about.get("read_site"),
            write_site=about.get("write_site"),
            neurons=_mapping(found.get("neurons")),
            neuron_file=found.get("file"),
            fingerprint=found.get("fingerprint"),
            corpus=given or about.get("corpus"),
            corpus_tokens=None if given else about.get("corpus_tokens"),
            positions=about.get("positions"),
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    """A value of a stranger's file that should be a mapping, or nothing."""
    return value if isinstance(value, dict) else {}
