"""matplotlib's SVG file → an element that can stand in an HTML page, beside others."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_SVG = "http://www.w3.org/2000/svg"
_LEFT_OUT = ("metadata", "style")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NOT_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""What a name may hold and XML may not."""
_STROKES = "stroke-linejoin: round; stroke-linecap: butt"
"""What matplotlib's style sheet says, which would hold for the whole page."""


def inlined(source: bytes, name: str, title: str, description: str) -> str:
    """Return the ``<svg>`` element of a file.

    Args:
        source: The file that matplotlib wrote.
        name: Put before each id, so that two figures of a page have none in common.
        title: What a screen reader calls it.
        description: What it says of it.
    """
    root = ElementTree.fromstring(_NOT_XML.sub(b"", source))
    for parent in list(root.iter()):
        for child in [child for child in parent if _local(child.tag) in _LEFT_OUT]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _renamed(_local(key), value, name) for key, value in element.attrib.items()}
    width = root.attrib.pop("width")
    root.attrib.pop("height")
    root.attrib |= {
        "xmlns": _SVG,
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "style": f"width: 100%; max-width: {width}; height: auto; {_STROKES}",
    }
    for number, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(number, element)
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """Return a name without its namespace, as HTML has it."""
    return name.rpartition("}")[2]


def _renamed(key: str, value: str, name: str) -> str:
    """Return an attribute's value, with the ids in it under the figure's name."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return _REFERENCE.sub(rf"url(#{name}-\1)", value)
