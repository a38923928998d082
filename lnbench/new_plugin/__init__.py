"""What ``lnbench plugins new`` writes: a package with one selector or intervention, its tests, CI and README."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from lnbench._version import __version__
from lnbench.errors import LnbenchError
from lnbench.files import write_text
from lnbench.host import get_host

Kind = Literal["selector", "intervention"]
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    ".github/workflows/ci.yml": "ci.yml",
    "{module}/__init__.py": "{kind}.py",
    "{module}/py.typed": "py.typed",
    "tests/test_{module}.py": "test_{kind}.py",
}
"""File of the package → its template."""


def write_package(name: str, kind: Kind = "selector", folder: Path | None = None) -> list[Path]:
    """Write a package that adds one plugin, which is called as its module; return its files.

    Args:
        name: Of the distribution, as ``my-neurons``; its module is then ``my_neurons``, as users write the choice too.
        kind: What it adds.
        folder: Where to; by default a folder of this name, here.

    Raises:
        LnbenchError: a name that no package can have, or that is taken; a folder that is not empty.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    if kind not in get_args(Kind):
        raise LnbenchError(f"--kind {kind}: expected {' or '.join(get_args(Kind))}")
    module = re.sub(r"[.-]", "_", name).lower()
    if not _NAME.fullmatch(name) or not module.isidentifier() or keyword.iskeyword(module):
        raise LnbenchError(f"{name!r} is no name of a package: use letters, digits and -, as my-neurons")
    if module in get_host().names(kind):
        raise LnbenchError(
            f"there is {'an' if kind == 'intervention' else 'a'} {kind} {module!r} already: take another name"
        )
    if find_spec(module) is not None:
        raise LnbenchError(f"there is a Python module {module!r} already: take another name")
    target = Path(name) if folder is None else folder
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LnbenchError(f"{target} exists and is not empty: name another folder with --out")
    templates = Environment(
        loader=PackageLoader("lnbench.new_plugin", "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    values = {
        "name": name,
        "module": module,
        "kind": kind,
        "class_name": "".join(part.capitalize() for part in module.split("_")),
        "lnbench": ".".join(__version__.split(".")[:2]),
    }
    written = []
    for file, template in _FILES.items():
        path = target / file.format(**values)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, templates.get_template(f"{template.format(**values)}.jinja").render(values))
        written.append(path)
    return written
