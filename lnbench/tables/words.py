"""Numbers, counts and lists as sentences and tables write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from lnbench.model.names import without_folders as without_folders
from lnbench.significance import LEVEL

SIGNIFICANT, BEYOND_CONTROLS = "*", "†"
CORRECTED = f"p < {LEVEL:g} after Holm's correction"
MARKS = {
    SIGNIFICANT: f"differs from the same model without intervention: {CORRECTED}",
    BEYOND_CONTROLS: "differs from its control, by default as many random neurons, by a test over draws and documents: "
    f"{CORRECTED}",
}
"""The marks of significance behind a change, and what each says."""
NOTHING = "–"
"""What is shown where there is no number."""


def number(value: float | None, digits: int = 3) -> str:
    """Write a plain number."""
    return NOTHING if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """Write a change, with its sign."""
    return NOTHING if value is None else f"{value:+.{digits}f}".replace("-", "−")


def brief(value: float | None) -> str:
    """Write a number of any size with two significant digits."""
    return NOTHING if value is None else f"{value:.2g}".replace("-", "−")


def p_value(value: float | None) -> str:
    """Write a p-value; those below 0.001 as ``< 0.001``."""
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def percent(share: float | None) -> str:
    """Write a share in per cent; a small one does not become nothing."""
    if share is None:
        return NOTHING
    return "< 0.1\u00a0%" if 0 < share < 0.001 else f"{share:.1%}".replace(".0%", "%").replace("%", "\u00a0%")


def round_percent(share: float) -> str:
    """Write a share as a whole percentage, or with one decimal where it is close to none or all."""
    return f"{share:.1%}" if 0 < share < 0.0095 or 0.9905 < share < 1 else f"{share:.0%}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Write ``1 cell``, ``2 cells``, ``1,200 cells``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(items: Iterable[str]) -> str:
    """Write ``a``, ``a and b``, ``a, b and c``."""
    *most, last = list(items) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def span(low: float | None, high: float | None, digits: int = 3) -> str:
    """Write an interval; nothing where one end is not known."""
    return NOTHING if low is None or high is None else f"{signed(low, digits)} to {signed(high, digits)}"


_UNITS_OF_CONTROLS = {
    "random": "as many random neurons",
    "random_active": "as many random neurons that are as active",
    "other_language": "as many neurons of other languages",
    "random_direction": "random directions of the same strength",
}


def control_units(control: str) -> str:
    """Say what a control changes in place of the neurons."""
    return _UNITS_OF_CONTROLS.get(control.partition(":")[0], f"the control {control}")


def marks_of(control: str) -> dict[str, str]:
    """Return the marks of significance behind a change, and what each says of this control."""
    beyond = f"differs from {control_units(control)}, by a test over draws and documents: {CORRECTED}"
    return MARKS | {BEYOND_CONTROLS: beyond}


def ratio(value: float | None, low: float | None, high: float | None) -> str:
    """Write a ratio with its interval, of which an end may not be known: ``12 [8.1 to 20]``."""
    ends = "" if low is None and high is None else f" [{brief(low)} to {brief(high)}]"
    return f"{brief(value)}{ends}"


def range_of(counts: Iterable[int]) -> str:
    """Write the least and the greatest of some counts, ``12–16``, or the one that they share; empty without any."""
    distinct = sorted(set(counts))
    if not distinct:
        return ""
    return f"{distinct[0]:,}" if len(distinct) == 1 else f"{distinct[0]:,}–{distinct[-1]:,}"


def model_name(model: str) -> str:
    """Return a model's name without the path to it."""
    return Path(model).name or model


def short_names(names: Iterable[str | None]) -> dict[str, str]:
    """Return, for those of some names that are absolute paths, as much of their end as none of the others has."""
    parts = {name: PurePath(name).parts[1:] for name in names if name and PurePath(name).is_absolute()}
    ends = Counter(path[-length:] for path in set(parts.values()) for length in range(1, len(path) + 1))
    return {name: "/".join(_shortest(path, ends)) for name, path in parts.items() if path}


def _shortest(path: tuple[str, ...], ends: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    """Return the shortest end of a path that only one path has; the whole where it is another's end."""
    lengths = range(1, len(path) + 1)
    return next((path[-length:] for length in lengths if ends[path[-length:]] == 1), path)
