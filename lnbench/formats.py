"""Files of lnbench's own formats: JSON that a pydantic model checks, safetensors, and names made of any text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lnbench.errors import LnbenchError
from lnbench.files import atomic_path, read_json, write_json

_Model = TypeVar("_Model", bound=BaseModel)


class StrictModel(BaseModel):
    """Data without room for unknown fields, which nobody changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FormatFile(BaseModel):
    """A JSON file whose ``format`` is the default of the subclass's field of that name."""

    kind: ClassVar[str]
    """What the file is, in messages."""
    usual_name: ClassVar[str]
    """Its name in a folder."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file.

        Raises:
            LnbenchError: the disk is full or the folder cannot be written.
        """
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that :meth:`save` wrote, or the one in a folder.

        Raises:
            LnbenchError: missing, truncated, of another format, or its content is impossible.
        """
        path = Path(path) / cls.usual_name if Path(path).is_dir() else path
        content = read_format(path, cls.model_fields["format"].default, cls.kind)
        return validated(cls, content, f"{path} is not a valid {cls.kind}")


def read_format(path: str | os.PathLike[str], expected: str, kind: str, *older: str) -> dict[str, Any]:
    """Read a JSON file whose entry ``format`` says that it is the ``expected`` one, or an older version that is read.

    Raises:
        LnbenchError: missing, truncated or of another format; the message calls the file a ``kind``.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") not in (expected, *older):
        raise LnbenchError(f"{path} is not a {kind} of format {expected}")
    return content


def validated(model: type[_Model], content: object, where: str, remedy: str = "", *, from_yaml: bool = False) -> _Model:
    """Check data by a pydantic model, from JSON or CSV unless ``from_yaml``.

    Raises:
        LnbenchError: the first problem, after ``where`` and before ``remedy``.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise LnbenchError(
            f"{where}: {first_error(error, from_yaml=from_yaml)}" + (f"; {remedy}" if remedy else "")
        ) from error


def first_error(
    error: ValidationError,
    *,
    with_value: bool = False,
    known: Iterable[str] = (),
    place: Callable[[str], str] = str,
    from_yaml: bool = False,
) -> str:
    """Return the first problem that pydantic found, as ``field: message``.

    Args:
        error: What pydantic raised.
        with_value: Write it as ``field=value: message``.
        known: The fields that exist, for an error about one that does not.
        place: Field → what the user knows it by.
        from_yaml: Say how YAML reads what was not put in quotes.
    """
    first, *others = error.errors(include_url=False)
    # A value that can be of several types is refused once by each.
    parent, value = first["loc"][:-1], first["input"]
    same = [first]
    if first["type"] != "missing":
        same += [other for other in others if other["loc"][:-1] == parent and other["input"] is value]
    path = parent if len(same) > 1 else first["loc"]
    message = ", or ".join(dict.fromkeys(problem["msg"].removeprefix("Value error, ") for problem in same))
    if not path:
        return message
    field = place(".".join(str(part) for part in path if part != "[key]"))
    if known and first["type"] == "extra_forbidden":
        return f"{field}: there is no such field; known: {', '.join(known)}"
    if first["type"] == "string_pattern_mismatch":
        message += f"; {first['input']!r} is no name: a name has letters, digits, '.', '_' and '-', as in en-hi"
    if first["type"] == "string_type" and (hint := retyped([first["input"]], from_yaml)):
        message += f", {hint}"
    return f"{field}={first['input']!r}: {message}" if with_value else f"{field}: {message}"


def retyped(values: Any, from_yaml: bool = True) -> str:
    """Return what a parser made of one of the values that was written as text, and how to write it; empty if none."""
    values = values if isinstance(values, list | tuple) else ()
    for value in values:
        if isinstance(value, bool):
            found = f"not the boolean {value}"
            rule = "an unquoted no, off, on, yes, true or false is a boolean in YAML, so write it in quotes, as 'no'"
        elif value is None or isinstance(value, int | float | date):
            found = "not null" if value is None else f"not the {type(value).__name__} {value}"
            rule = "YAML takes an unquoted null, number or date for what it looks like, so write it in quotes"
        else:
            continue
        return f"{found}: {rule}" if from_yaml else found
    return ""


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    *,
    framework: Literal["pt", "np"] = "pt",
) -> None:
    """Write a safetensors file atomically.

    Raises:
        LnbenchError: the disk is full or the folder cannot be written; a file that is there stays whole.
    """
    import safetensors.numpy
    import safetensors.torch

    save_file = safetensors.torch.save_file if framework == "pt" else safetensors.numpy.save_file
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata) if metadata else None)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error
        if metadata and len(metadata) > 1:
            _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Put the entries of a safetensors file's metadata in order, which the library writes in another one each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(content) > length:
            raise LnbenchError(f"{path}: metadata that safetensors writes in another way than JSON")
        file.seek(8)
        file.write(content.ljust(length))


def read_tensors(
    path: str | os.PathLike[str],
    kind: str,
    remedy: str,
    *,
    framework: Literal["pt", "np"] = "pt",
    metadata_only: bool = False,
    decode: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a safetensors file.

    Args:
        path: The file.
        kind: What it is, and
        remedy: what to do if it is damaged, for messages.
        framework: Whether tensors are torch's or numpy's.
        metadata_only: Read no tensors.
        decode: Entries of the metadata that hold JSON; one that is missing is None.

    Returns:
        The tensors by name, and the metadata.

    Raises:
        LnbenchError: missing, truncated or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework=framework) as file:
            names = () if metadata_only else file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            metadata: dict[str, Any] = dict(file.metadata() or {})
        metadata |= {name: json.loads(metadata.get(name, "null")) for name in decode}
    except FileNotFoundError as error:
        raise LnbenchError(f"no such {kind}: {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise LnbenchError(f"{path} cannot be read ({error}); it may be truncated: {remedy}") from error
    return tensors, metadata


def slug(text: str, kept: str = ".+-") -> str:
    """Return ``text`` with one ``_`` for each run of characters other than ASCII letters, digits and ``kept``."""
    return re.sub(rf"[^A-Za-z0-9{re.escape(kept)}]+", "_", text)
