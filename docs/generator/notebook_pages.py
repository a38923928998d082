"""A hook of MkDocs: notebooks become pages, as they were executed; nothing is run while the site is built."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

_SUFFIX = ".ipynb"
_LINK = re.compile(r"(\]\([^)\s]+)\.ipynb(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and the images in it; the notebook itself stays beside it, to be downloaded."""
    for notebook in [file for file in files if file.src_uri.endswith(_SUFFIX)]:
        path = PurePosixPath(notebook.src_uri)
        # Only a file's name: what is generated lies beside the page.
        resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
        content = nbformat.reads(notebook.content_string, as_version=4)
        body, made = MarkdownExporter().from_notebook_node(content, resources)
        # The first heading is the page's, and what is offered comes below it.
        heading, _, rest = body.partition("\n")
        page = f"{heading}\n\n[Download this notebook]({path.name}){{: download }}\n{rest}"
        files.append(File.generated(config, str(path.with_suffix(".md")), content=page))
        for name, image in made["outputs"].items():
            files.append(File.generated(config, str(path.parent / name), content=image))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to notebooks, which lead to the files where these pages are read as files, lead to their pages."""
    return _LINK.sub(r"\1.md", markdown) if "{: download }" not in markdown else markdown
