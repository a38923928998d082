"""Plugins: finds them, resolves what users write (``name:key=value``) to objects, and explains what is missing."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pluggy

from lnbench import hookspecs
from lnbench._version import __version__
from lnbench.errors import LnbenchError, PluginError, one_line_error, plugin_errors, unknown
from lnbench.hookspecs import PROJECT, hookimpl
from lnbench.parameters import (
    Parameter,
    as_json,
    attributes,
    format_choice,
    format_number,
    from_text,
    is_pydantic,
    listing,
    made_by,
    parameters_of,
    parse_choice,
    summary,
    target_of,
    validated,
)

__all__ = ["Broken", "Host", "Parameter", "Row", "get_host", "hookimpl", "kinds"]

COMMANDS = "lnbench_register_commands"
DISABLE = "LNBENCH_DISABLE_PLUGINS"
"""Environment variable: set to anything but the empty string or 0, only the built-ins are loaded."""


@dataclass(frozen=True)
class _Kind:
    hook: str
    method: str | None
    """What an object of this kind must be able to do; None: what is registered is the object itself."""


_KINDS = {
    "selector": _Kind("lnbench_register_selectors", "select"),
    "intervention": _Kind("lnbench_register_interventions", "override"),
    "finetuner": _Kind("lnbench_register_finetuners", "train"),
    "measure": _Kind("lnbench_register_measures", "observe"),
    "executor": _Kind("lnbench_register_executors", "run"),
    "architecture": _Kind("lnbench_register_architectures", None),
}

kinds: tuple[str, ...] = tuple(_KINDS)
"""What plugins can add."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PATTERN = re.compile(r"(?P<before>[A-Za-z0-9._-]*)\{(?P<parameter>[A-Za-z_]\w*)\}(?P<after>[A-Za-z0-9._-]*)")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True)
class Source:
    """Who registered something."""

    plugin: str
    distribution: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True)
class Broken:
    """A third-party plugin that could not be loaded."""

    name: str
    distribution: str
    error: Exception

    def __str__(self) -> str:
        return f"plugin {self.name!r} ({self.distribution}) could not be loaded: {one_line_error(self.error)}"


@dataclass(frozen=True)
class Row:
    """One line of ``lnbench plugins``."""

    kind: str
    name: str
    parameters: tuple[Parameter, ...]
    doc: str
    distribution: str
    version: str


@dataclass(frozen=True)
class _Entry:
    kind: str
    name: str
    factory: Any
    source: Source

    @property
    def pattern(self) -> re.Match[str] | None:
        """Where the name is a pattern of names: its parts ``before``, ``parameter`` and ``after``."""
        return _PATTERN.fullmatch(self.name)

    def matching(self, name: str) -> _Entry | None:
        """Return the entry of ``name``, if this is a pattern that it fits."""
        if (pattern := self.pattern) is None:
            return None
        value = name.removeprefix(pattern["before"]).removesuffix(pattern["after"])
        if not _NUMBER.fullmatch(value) or name != f"{pattern['before']}{value}{pattern['after']}":
            return None
        return self.given(float(value))

    def given(self, value: float) -> _Entry:
        """Return the entry of the name in which the pattern's parameter has this value."""
        pattern = self.pattern
        assert pattern is not None
        name = f"{pattern['before']}{format_number(value)}{pattern['after']}"
        return replace(self, name=name, factory=functools.partial(self.factory, **{pattern["parameter"]: value}))

    def making(self, built: Any) -> _Entry | None:
        """Return this entry if its factory makes objects like ``built``; of a pattern, the name that makes it."""
        if not made_by(built, self.factory):
            return None
        return self if self.pattern is None else self.given(getattr(built, self.pattern["parameter"]))


class Host:
    """The plugins of one process.

    Built-ins come first, then the third parties of the entry-point group ``lnbench`` unless the environment variable
    ``LNBENCH_DISABLE_PLUGINS`` is set. A third party that cannot be loaded is kept in :attr:`broken`: listing goes on
    without it, but nothing is resolved, because a benchmark must not go on with less than was asked for.

    Args:
        builtins: Modules to load first; by default all below ``lnbench/plugins``.

    Raises:
        LnbenchError: a built-in cannot be registered.
    """

    def __init__(self, builtins: Iterable[str] | None = None) -> None:
        self.broken: list[Broken] = []
        self._entries: dict[str, dict[str, _Entry]] = {kind: {} for kind in kinds}
        self._sources: dict[int, Source] = {}
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        for name in _builtin_modules() if builtins is None else builtins:
            self._add(importlib.import_module(name), Source(name, PROJECT, __version__))
        if _third_parties():
            for entry_point in sorted(importlib.metadata.entry_points(group=PROJECT)):
                self._load(entry_point)

    def register(self, plugin: Any, name: str | None = None) -> None:
        """Add a plugin object: a module, or anything with marked hook functions.

        Raises:
            LnbenchError: it has no hook or an unknown one, or registers a name that is taken. Nothing of it is kept.
            PluginError: one of its hooks raised. Nothing of it is kept.
        """
        name = name or getattr(plugin, "__name__", None) or type(plugin).__name__
        self._add(plugin, Source(name, name))

    def unregister(self, plugin: Any) -> None:
        """Take back all that ``plugin`` registered."""
        self._manager.unregister(plugin)
        source = self._sources.pop(id(plugin))
        for kind, entries in self._entries.items():
            self._entries[kind] = {name: entry for name, entry in entries.items() if entry.source is not source}

    def names(self, kind: str) -> list[str]:
        """The names of one kind, in the order in which they were registered."""
        return list(self._of(kind))

    def factory(self, kind: str, name: str) -> Any:
        """Return the factory registered as ``name``, a pattern included; for an architecture, its row.

        Raises:
            LnbenchError: unknown kind or name, or a broken plugin.
        """
        registered = self._of(kind).get(name)
        return registered.factory if registered and registered.pattern else self._entry(kind, name).factory

    def resolve(self, kind: str, choice: Any) -> Any:
        """The object that ``choice`` stands for.

        Args:
            kind: One of :data:`kinds`.
            choice: ``name`` or ``name:key=value:key=value``, with ``a+b+c`` for a list and ``none`` for None;
                ``{"name": …, "parameters": {…}}``; or an object of that kind, which is returned as it is.

        Raises:
            LnbenchError: unknown name or parameter, a value that does not fit, an object that is not of that kind, or
                a broken plugin.
            PluginError: the factory failed.
        """
        if isinstance(choice, str | Mapping):
            return self._built(kind, choice)[2]
        method = self._kind(kind).method
        if method is not None and not callable(getattr(choice, method, None)):
            raise LnbenchError(
                f"{choice!r} is not {_article(kind)}: expected a name, or an object with a method {method!r}"
            )
        return choice

    def canonical(self, kind: str, choice: Any) -> dict[str, Any]:
        """What ``choice`` stands for, in full: ``{"name": …, "parameters": {…}}`` with every default, as JSON data.

        An object is traced back to the name that makes it; one that no plugin's factory made is named by its class.

        Raises:
            LnbenchError: as :meth:`resolve`.
        """
        if isinstance(choice, str | Mapping):
            entry, arguments, _ = self._built(kind, choice)
            return {"name": entry.name, "parameters": as_json(arguments)}
        target = type(self.resolve(kind, choice))
        makers = [made for entry in self._of(kind).values() if (made := entry.making(choice))]
        # A preset says more than the factory it is a preset of.
        maker = max(makers, key=lambda entry: isinstance(entry.factory, functools.partial), default=None)
        name, factory = (maker.name, maker.factory) if maker else (f"{target.__module__}.{target.__qualname__}", target)
        try:
            parameters = parameters_of(factory)
        except (NameError, TypeError, ValueError):
            # A class that was never registered need not have a signature that can be read.
            parameters = {}
        return {"name": name, "parameters": as_json(attributes(parameters, choice))}

    def format(self, kind: str, choice: Any) -> str:
        """Return a choice as users write it, with the parameters that are not at their default, in their order.

        Raises:
            LnbenchError: as :meth:`resolve`.
        """
        full = self.canonical(kind, choice)
        return format_choice(full["name"], full["parameters"], self.defaults(kind, full["name"]))

    def defaults(self, kind: str, name: str) -> dict[str, Any]:
        """Return the parameters of ``name`` written alone; none if one must be given, or it is not installed."""
        try:
            parameters: dict[str, Any] = self.canonical(kind, name)["parameters"]
        except LnbenchError:
            return {}
        return parameters

    def control_of(self, selector: str, seed: int) -> str | None:
        """Return the choice of random neurons that are a control of ``selector`` (a choice or a NeuronSet file).

        None for a selector that is a control itself.
        """
        controls = [entry.name for entry in self._of("selector").values() if _declares(entry.factory, "is_control")]
        if parse_choice(selector)[0] in controls:
            return None
        return format_choice(controls[0], {"like": selector, "seed": seed})

    def declares(self, kind: str, name: str, attribute: str) -> bool:
        """Return whether the class registered as ``name`` sets a true ``attribute``; no other plugin need be sound."""
        registered = self._of(kind).get(name)
        return registered is not None and _declares(registered.factory, attribute)

    def describe(self) -> list[Row]:
        """Every name of every kind, for people."""
        return [_row(entry) for kind in kinds for entry in self._of(kind).values()]

    def command_hooks(self) -> Iterator[tuple[Source, Callable[..., Any]]]:
        """Every plugin that adds commands, with its own ``lnbench_register_commands``, to be called with ``app=``."""
        for plugin in self._manager.get_plugins():
            if hasattr(plugin, COMMANDS):
                others = [other for other in self._manager.get_plugins() if other is not plugin]
                yield self._sources[id(plugin)], self._manager.subset_hook_caller(COMMANDS, others)

    def _of(self, kind: str) -> dict[str, _Entry]:
        self._kind(kind)
        return self._entries[kind]

    @staticmethod
    def _kind(kind: str) -> _Kind:
        if kind not in _KINDS:
            raise unknown("kind of plugin", kind, kinds)
        return _KINDS[kind]

    def _entry(self, kind: str, name: str) -> _Entry:
        entries = self._of(kind)
        if self.broken:
            raise LnbenchError(
                f"{'; '.join(map(str, self.broken))}. Repair or uninstall it, or set {DISABLE}=1 to run without "
                "third-party plugins"
            ) from self.broken[0].error
        if name in entries and entries[name].pattern is None:
            return entries[name]
        if matches := [match for entry in entries.values() if (match := entry.matching(name))]:
            return matches[0]
        hint = "Parameters are written name:key=value" if ":" in name else "`lnbench plugins` describes them"
        if not _third_parties():
            hint += f"; third-party plugins are switched off by {DISABLE}"
        raise unknown(kind, name, entries, hint)

    def _built(self, kind: str, choice: str | Mapping[str, Any]) -> tuple[_Entry, dict[str, Any], Any]:
        name, given = parse_choice(choice) if isinstance(choice, str) else _unpacked(kind, choice)
        entry = self._entry(kind, name)
        method = self._kind(kind).method
        parameters = {} if method is None else parameters_of(entry.factory)
        _check_names(entry, parameters, given)
        if method is None:
            return entry, {}, entry.factory
        values = {
            key: from_text(parameters[key].annotation, value) if isinstance(value, str) else value
            for key, value in given.items()
        }
        arguments, built = _make(entry, parameters, values)
        if not callable(getattr(built, method, None)):
            raise PluginError(f"{kind} {name!r} ({entry.source}) made {built!r}, which has no method {method!r}")
        return entry, arguments, built

    def _load(self, entry_point: importlib.metadata.EntryPoint) -> None:
        metadata = entry_point.dist.metadata if entry_point.dist else {"Name": entry_point.value}
        source = Source(entry_point.name, metadata["Name"], entry_point.dist.version if entry_point.dist else "")
        try:
            self._add(entry_point.load(), source)
        except Exception as error:
            self.broken.append(Broken(source.plugin, str(source), error))

    def _add(self, plugin: Any, source: Source) -> None:
        if self._manager.is_registered(plugin):
            raise LnbenchError(f"plugin {source.plugin!r} ({source}) is registered already")
        try:
            self._manager.register(plugin, f"{source.plugin}-{id(plugin):x}")
            self._manager.check_pending()
            found = self._collect(plugin, source)
        except Exception as error:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            if isinstance(error, LnbenchError):
                raise
            if isinstance(error, pluggy.PluginValidationError):
                raise LnbenchError(f"{error}; hooks are {_hooks()}, each called with register") from error
            raise PluginError(f"plugin {source.plugin!r} ({source}) failed: {one_line_error(error)}") from error
        self._sources[id(plugin)] = source
        for entry in found:
            self._entries[entry.kind][entry.name] = entry

    def _collect(self, plugin: Any, source: Source) -> list[_Entry]:
        """Call the hooks of ``plugin`` alone, so that what they register is known to be its own."""
        if not self._manager.get_hookcallers(plugin):
            raise LnbenchError(
                f"plugin {source.plugin!r} ({source}) has no hook: mark its functions with @lnbench.hookimpl; hooks "
                f"are {_hooks()}"
            )
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        found: dict[tuple[str, str], _Entry] = {}

        def register(kind: str, name: str, factory: Any) -> None:
            entry = _Entry(kind, name, factory, source)
            _check_entry(entry)
            registered = [*self._entries[kind].values(), *(other for other in found.values() if other.kind == kind)]
            clashes = (other for other in registered if other.name == name or other.matching(name))
            if taken := next(clashes, None):
                raise LnbenchError(
                    f"two plugins register the {kind} {name!r}: {taken.source} and {source}; uninstall one of them"
                )
            found[kind, name] = entry

        for kind, row in _KINDS.items():
            self._manager.subset_hook_caller(row.hook, others)(register=functools.partial(register, kind))
        return list(found.values())


@functools.cache
def get_host() -> Host:
    """The host of this process, with the built-ins and all installed plugins; made on the first call."""
    return Host()


def _hooks() -> str:
    return ", ".join([*(row.hook for row in _KINDS.values()), COMMANDS])


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _third_parties() -> bool:
    return os.environ.get(DISABLE, "") in ("", "0")


def _unpacked(kind: str, choice: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    name, given = choice.get("name"), choice.get("parameters") or {}
    if choice.keys() - {"name", "parameters"} or not isinstance(name, str) or not isinstance(given, Mapping):
        raise LnbenchError(f"{dict(choice)!r} is not {_article(kind)}: expected {{'name': …, 'parameters': {{…}}}}")
    return name, given


def _check_entry(entry: _Entry) -> None:
    if not isinstance(entry.name, str) or not (_NAME.fullmatch(entry.name) or entry.pattern):
        raise LnbenchError(
            f"{entry.source} registers the {entry.kind} {entry.name!r}: a name is made of letters, digits, '.', '_' "
            "and '-', with at most one parameter in braces"
        )
    if _KINDS[entry.kind].method is None:
        return
    if not callable(entry.factory):
        raise LnbenchError(
            f"{entry.source} registers the {entry.kind} {entry.name!r} with {entry.factory!r}: not callable"
        )
    parameters = parameters_of(entry.factory)
    if entry.pattern is not None and entry.pattern["parameter"] not in parameters:
        raise LnbenchError(
            f"{entry.source} registers the {entry.kind} {entry.name!r}: its factory has no such parameter; "
            f"{listing(parameters)}"
        )


def _check_names(entry: _Entry, parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> None:
    stray = [key for key in given if key not in parameters]
    missing = [key for key, parameter in parameters.items() if parameter.required and key not in given]
    if stray or missing:
        problem = f"has no parameter {stray[0]!r}" if stray else f"needs a value for {missing[0]!r}"
        raise LnbenchError(f"{entry.kind} {entry.name!r} {problem}; {listing(parameters)}")


def _make(entry: _Entry, parameters: Mapping[str, Parameter], values: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The validated arguments, defaults included, and the object that the factory makes of them."""
    from pydantic import ValidationError

    with plugin_errors(entry.kind, entry.name):
        try:
            if is_pydantic(entry.factory):
                built = entry.factory(**values)
                return attributes(parameters, built), built
            values = validated(parameters, values)
            defaults = {name: parameter.default for name, parameter in parameters.items() if not parameter.required}
            return defaults | values, entry.factory(**values)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}={problem['input']!r}: {problem['msg']}"
                if problem["loc"]
                else problem["msg"]
                for problem in error.errors()
            )
            raise LnbenchError(f"{entry.kind} {entry.name!r}: {problems}; {listing(parameters)}") from error


def _row(entry: _Entry) -> Row:
    if _KINDS[entry.kind].method is None:
        parameters, doc = {}, ""
    else:
        parameters, doc = parameters_of(entry.factory), summary(target_of(entry.factory))
    source = entry.source
    return Row(entry.kind, entry.name, tuple(parameters.values()), doc, source.distribution, source.version)


def _declares(factory: Any, attribute: str) -> bool:
    return bool(getattr(target_of(factory), attribute, False))


def changes_nothing(intervention: Any) -> bool:
    """Return whether an intervention leaves the model as it is, so that what is measured under it is the baseline.

    A name that is unknown here, such as one in the records of somebody with other plugins, changes something.

    Args:
        intervention: A choice in text, ``{"name": …}``, or an object.
    """
    if not isinstance(intervention, str | Mapping):
        return bool(getattr(intervention, "changes_nothing", False))
    name = intervention.partition(":")[0] if isinstance(intervention, str) else intervention.get("name", "")
    return get_host().declares("intervention", name, "changes_nothing")


def _builtin_modules() -> list[str]:
    prefix = f"{PROJECT}.plugins."
    folder = str(Path(__file__).with_name("plugins"))
    return [module.name for module in pkgutil.walk_packages([folder], prefix) if not module.ispkg]
