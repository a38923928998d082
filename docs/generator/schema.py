"""The JSON Schema of a sweep's file, with which editors complete and check it."""

from __future__ import annotations

import json

from lnbench.sweeps.spec import schema


def sweep_schema() -> str:
    """``docs/sweep.schema.json``, as ``lnbench sweep --schema`` prints it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
