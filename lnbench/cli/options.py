"""Options of commands, made from the fields of settings; and how commands print."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import GenericAlias, NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from annotated_types import Ge, Le
from pydantic import ValidationError

from lnbench import demo, threads
from lnbench.data_folder import text_read
from lnbench.errors import LnbenchError
from lnbench.settings import Option, Settings, complaint, default_of, fields_of, members_of, option_of

Given = dict[str, Any]
"""What the user gave of the options that :func:`takes` made, to be handed to the model."""
Format = Annotated[
    Literal["terminal", "markdown", "csv", "json", "html", "latex"],
    typer.Option("--format", help="How tables are printed; beside other formats than terminal nothing else is."),
]
PrintWidth = Annotated[
    Literal["column", "page"],
    typer.Option("--width", help="Of figures in print: a page's text, or a column of two. Text is as large in both."),
]
Executor = Annotated[
    str,
    typer.Option("--executor", help="Where cells are run: local, ray:workers=4:gpus=1, or a plugin's."),
]


def takes(
    model: type[Settings], *, leave_out: Collection[str] = (), arguments: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of a model; its parameter ``given`` then holds the values.

    Args:
        model: Whose fields are options: with its name, type, default, bounds and description.
        leave_out: Fields that the command sets itself.
        arguments: Fields that are arguments and not options.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters
        fields = [name for name in fields_of(model) if name not in leave_out]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            given = {name: values.pop(name) for name in fields}
            try:
                function(**values, given={name: value for name, value in given.items() if value not in (None, [])})
            except LnbenchError as error:
                if isinstance(error.__cause__, ValidationError) and error.__cause__.title == model.__name__:
                    raise complaint(error.__cause__, model, functools.partial(_spoken, model)) from error
                raise

        made = [_parameter(model, name, is_argument=name in arguments) for name in fields]
        parameters = [part for name, parameter in own.items() for part in (made if name == "given" else [parameter])]
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        del command.__wrapped__  # type: ignore[attr-defined]
        command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
        return command

    return decorate


def _spoken(model: type[Settings], place: str) -> str:
    field = place.partition(".")[0]
    return f"--{option_of(model, field).name}" if field in model.model_fields else place


def _parameter(model: type[Settings], name: str, *, is_argument: bool) -> inspect.Parameter:
    field, option = model.model_fields[name], option_of(model, name)
    kinds = {kind: bounds for kind, bounds in members_of(field.annotation, field.metadata) if kind is not NoneType}
    described: dict[str, Any] = {"help": _sentence(field.description or "")}
    for bound in (bound for bounds in kinds.values() for bound in bounds):
        described |= {"min": bound.ge} if isinstance(bound, Ge) else {"max": bound.le} if isinstance(bound, Le) else {}
    names = [f"--{option.name}", *([f"-{option.short}"] if option.short else [])]
    made = typer.Argument(**described) if is_argument else typer.Option(*names, **described)
    annotation: Any = _type_of(list(kinds), option, is_argument=is_argument)
    hidden = not option.has_default or (option.repeated and not field.is_required())
    default = inspect.Parameter.empty if field.is_required() else None if hidden else default_of(model, name)
    if default in (None, (), [], {}):
        default, annotation = None, annotation | None
    elif isinstance(default, tuple) and annotation is str:
        default = "+".join(map(str, default))  # as it would be written
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, made]
    )


def _sentence(text: str) -> str:
    """Return a description with its full stop, and a capital unless it begins with a literal or a name."""
    return re.sub(r"^[a-z](?=[a-z]* )", lambda first: first.group().upper(), text).removesuffix(".") + "."


def _type_of(kinds: Sequence[Any], option: Option, *, is_argument: bool) -> Any:
    """Return the type that typer reads an option's text as; the model does the rest."""
    kind = kinds[0] if len(kinds) == 1 else str
    if get_origin(kind) in (tuple, list, dict):
        (element, _), *_ = members_of(get_args(kind)[0])
        return GenericAlias(list, element) if option.repeated or is_argument else str
    if option.is_path:
        return Path
    return GenericAlias(list, kind) if option.repeated else kind


def tell_text(corpus: str, format_: str = "terminal", *, statistics: str | None = None) -> None:
    """Print a command's first lines: which text it reads, and the number of threads, which is chosen here."""
    say(text_read(corpus, statistics), format_)
    say(threads.choose(), format_)


def chosen_languages(corpus: str, languages: Sequence[str], **options: Any) -> list[str]:
    """Return the languages asked for, or all that the corpus has; the beginning of each one's text is looked at.

    Args:
        corpus: Corpus pattern.
        languages: Those asked for; all if empty.
        options: How the text is read, see :class:`lnbench.corpora.corpus.Corpus`.
    """
    from lnbench.corpora.corpus import check_texts

    chosen = _languages_of(corpus, languages)
    check_texts(corpus, chosen, **options)
    return chosen


def _languages_of(corpus: str, languages: Sequence[str]) -> list[str]:
    from lnbench.corpora.patterns import choose_languages

    if corpus == demo.CORPUS and not languages:
        return list(demo.LANGUAGES)
    return choose_languages(corpus, list(languages) or None)


@contextmanager
def tell() -> Iterator[None]:
    """Print what lnbench logs, beside the progress bars and not through them."""
    import logging

    from tqdm.contrib.logging import logging_redirect_tqdm

    logger = logging.getLogger("lnbench")
    handler, level = logging.StreamHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with logging_redirect_tqdm([logger]):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True


def show(*tables: Any, format_: str = "terminal") -> None:
    """Print tables, in full width where there is no terminal to fit."""
    from lnbench.console import print_whole
    from lnbench.tables.render import FORMATS, terminal
    from lnbench.tables.table import Table

    if format_ == "terminal":
        for table in tables:
            print_whole(terminal(table) if isinstance(table, Table) else table)
    else:
        typer.echo(FORMATS[format_](*tables), nl=False)


def say(text: str, format_: str) -> None:
    """Print what is no table: on stderr where stdout is a program's to read."""
    typer.echo(text, err=format_ != "terminal")
