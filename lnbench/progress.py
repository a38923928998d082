"""Progress bars on stderr: gone when they are done, and silent where stderr is no terminal."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from lnbench import quiet
from lnbench.console import duration

quiet.silence_bars()


class Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar of tqdm with the time that is left in one unit.

    Args:
        args: As tqdm takes them.
        disable: Whether to show nothing; on no terminal, nothing is shown in any case.
        options: As tqdm takes them.
    """

    def __init__(self, *args: Any, disable: bool | None = False, **options: Any) -> None:
        shown = "{desc}{percentage:3.0f} % |{bar:20}| {n_fmt} of {total_fmt} {unit}{time_left}{postfix}"
        own: dict[str, Any] = {"leave": False, "dynamic_ncols": True, "bar_format": shown, "file": sys.stderr}
        # For tqdm, None asks whether there is a terminal.
        super().__init__(*args, **{**own, **options, "disable": disable or None})

    def close(self) -> None:
        """Show the last count, which may have come too soon after the one before, and take the bar away."""
        if not self.disable and self.n:
            self.refresh()
        super().close()

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar is written from; with ``time_left``."""
        values = dict(super().format_dict)
        done, elapsed = values["n"] - values["initial"], values["elapsed"]
        left = ""
        if values["total"] and done > 0 and elapsed > 0:
            left = f", {duration(max(0, values['total'] - values['n']) * elapsed / done)} left"
        return values | {"time_left": left}
