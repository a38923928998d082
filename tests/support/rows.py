"""Rows of a leaderboard, without the runs that they would come from."""

from __future__ import annotations

from typing import Any

from lnbench.leaderboard.rows import Row


def row(intervention: str = "zero", language: str = "hi", **changes: Any) -> Row:
    """Return a compared row of 200 documents; by default nothing changed."""
    fields: dict[str, Any] = {
        "model": "m",
        "selector": "lape",
        "intervention": intervention,
        "language": language,
        "task": f"quiz_{language}",
        "metric": "acc",
        "value": 0.5,
        "n": 200,
        "delta": 0.0,
        "p_holm": 1.0,
        "significant": False,
        "mde": 0.1,
        "higher_is_better": True,
        "n_controls": 2,
        "command": "lm_eval",
    }
    return Row(**{**fields, **changes})
