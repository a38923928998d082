"""Plugins: finds them, resolves what users write (``name:key=value``) to objects, and explains what is missing."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
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
from lnbench.hookspecs import PROJECT
from lnbench.parameters import (
    Parameter,
    attributes,
    build,
    fixed,
    format_choice,
    format_number,
    parameters_of,
    parse_choice,
    target_of,
)

DISABLE = "LNBENCH_DISABLE_PLUGINS"
"""Environment variable: set to anything but the empty string or 0, only the built-ins are loaded."""

_METHODS: dict[str, str | None] = {
    "selector": "select",
    "intervention": "override",
    "finetuner": "train",
    "measure": "observe",
    "executor": "run",
    "architecture": None,
}
"""What an object of each kind must be able to do; None: what is registered is the object itself."""

kinds: tuple[str, ...] = tuple(_METHODS)
"""What plugins can add."""

_HOOKS = ", ".join(f"lnbench_register_{kind}s" for kind in (*kinds, "command"))
_NAME = re.compile(r"(?=[A-Za-z0-9{])[A-Za-z0-9._-]*(\{(?P<parameter>[A-Za-z_]\w*)\})?[A-Za-z0-9._-]*")


@dataclass(frozen=True)
class PluginSource:
    """Who registered something."""

    plugin: str
    distribution: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True)
class Registered:
    """One name of one kind, with its factory: a line of ``lnbench plugins``."""

    kind: str
    name: str
    factory: Any
    source: PluginSource

    @property
    def method(self) -> str | None:
        """What an object made by the factory must be able to do; None where there is no factory but an object."""
        return _METHODS[self.kind]

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The factory's parameters by name."""
        return {} if self.method is None else parameters_of(self.factory)

    @property
    def doc(self) -> str:
        """The first line of the factory's docstring."""
        target = target_of(self.factory)
        doc = "" if self.method is None else inspect.cleandoc(target.__doc__ or "")
        # A dataclass without a docstring gets its signature for one.
        return "" if doc.startswith(f"{getattr(target, '__name__', '')}(") else doc.split("\n")[0]

    @property
    def in_name(self) -> str | None:
        """The parameter in braces, where the name is a pattern of names."""
        match = _NAME.fullmatch(self.name)
        return match and match["parameter"]

    def check(self) -> None:
        """Raise LnbenchError for a name or a factory that cannot be used."""
        problem = None
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            problem = "a name is made of letters, digits, '.', '_' and '-', with at most one parameter in braces"
        elif self.method is not None and not callable(self.factory):
            problem = f"{self.factory!r} is not callable"
        elif self.in_name not in (None, *self.parameters):
            problem = f"its factory has no such parameter; {self._listing()}"
        if problem:
            raise LnbenchError(f"{self.source} registers the {self.kind} {self.name!r}: {problem}")

    def matching(self, name: str) -> Registered | None:
        """Return the entry of ``name``, if it is this name, or one that fits this pattern."""
        pattern = re.sub(r"\\\{\w+\\\}", r"(-?\\d+(?:\\.\\d+)?)", re.escape(self.name))
        match = re.fullmatch(pattern, name)
        return match and (self._with(float(match[1])) if match.groups() else self)

    def making(self, built: Any) -> Registered | None:
        """Return this if its factory makes objects like ``built``; of a pattern, the name that makes it."""
        taken = fixed(self.factory)
        if target_of(self.factory) is not type(built) or any(getattr(built, key, None) != taken[key] for key in taken):
            return None
        return self._with(getattr(built, self.in_name)) if self.in_name else self

    def _with(self, value: float) -> Registered:
        """Return the name in which the pattern's parameter has this value."""
        name = re.sub(r"\{\w+\}", format_number(value), self.name)
        return replace(self, name=name, factory=functools.partial(self.factory, **{str(self.in_name): value}))

    def build(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return the arguments, converted and with every default, and the object that is made of them.

        Raises:
            LnbenchError: a parameter is unknown or missing, or a value does not fit.
            PluginError: the factory failed.
        """
        from pydantic import ValidationError

        from lnbench.formats import first_error

        parameters = self.parameters
        stray = [key for key in values if key not in parameters]
        missing = [key for key, parameter in parameters.items() if parameter.required and key not in values]
        if stray or missing:
            problem = f"has no parameter {stray[0]!r}" if stray else f"needs a value for {missing[0]!r}"
            raise LnbenchError(f"{self.kind} {self.name!r} {problem}; {self._listing()}")
        if self.method is None:
            return {}, self.factory
        with plugin_errors(self.kind, self.name):
            try:
                arguments, built = build(self.factory, values)
            except ValidationError as error:
                problem = first_error(error, with_value=True, from_yaml=True)
                listing = f"; {self._listing()}" if parameters else ""
                raise LnbenchError(f"{self.kind} {self.name!r}: {problem}{listing}") from error
        if not callable(getattr(built, self.method, None)):
            raise PluginError(
                f"{self.kind} {self.name!r} ({self.source}) made {built!r}, which has no method {self.method!r}"
            )
        return arguments, built

    def _listing(self) -> str:
        parameters = ", ".join(map(str, self.parameters.values()))
        return f"its parameters: {parameters}" if parameters else "it has no parameters"


class Host:
    """The plugins of one process.

    Built-ins come first, then the third parties of the entry-point group ``lnbench`` unless the environment variable
    ``LNBENCH_DISABLE_PLUGINS`` is set. A third party that cannot be loaded is kept in :attr:`broken`: the others can
    still be listed, but nothing is resolved, because a benchmark must not run with less than the user chose.

    Args:
        builtins: Modules to load first; by default all below ``lnbench/plugins``.

    Raises:
        LnbenchError: a built-in cannot be registered.
    """

    def __init__(self, builtins: Iterable[str] | None = None) -> None:
        self.broken: list[PluginError] = []
        self._registered: list[Registered] = []
        # One manager per plugin, so that what its hooks register is known to be its own.
        self._plugins: dict[int, tuple[PluginSource, pluggy.PluginManager]] = {}
        for name in _builtin_modules() if builtins is None else builtins:
            self._add(importlib.import_module(name), PluginSource(name, PROJECT, __version__))
        for entry_point in sorted(importlib.metadata.entry_points(group=PROJECT)) if _third_parties() else ():
            assert entry_point.dist is not None
            source = PluginSource(entry_point.name, entry_point.dist.name, entry_point.dist.version)
            try:
                self._add(entry_point.load(), source)
            except Exception as error:
                reason = one_line_error(error)
                broken = PluginError(f"plugin {source.plugin!r} ({source}) could not be loaded: {reason}")
                broken.__cause__ = error
                self.broken.append(broken)

    def register(self, plugin: Any, name: str | None = None) -> None:
        """Add a plugin object: a module, or anything with marked hook functions.

        Raises:
            LnbenchError: it has no hook or an unknown one, or registers a name that is taken. Nothing of it is kept.
            PluginError: one of its hooks raised. Nothing of it is kept.
        """
        name = name or getattr(plugin, "__name__", None) or type(plugin).__name__
        self._add(plugin, PluginSource(name, name))

    def unregister(self, plugin: Any) -> None:
        """Remove all that ``plugin`` registered."""
        source, _ = self._plugins.pop(id(plugin))
        self._registered = [entry for entry in self._registered if entry.source is not source]

    def names(self, kind: str) -> list[str]:
        """Return the names of one kind, in the order in which they were registered."""
        return [entry.name for entry in self._of(kind)]

    def factory(self, kind: str, name: str) -> Any:
        """Return the factory registered as ``name``; for an architecture, its row.

        Raises:
            LnbenchError: unknown kind or name, or a broken plugin.
        """
        return self._find(kind, name).factory

    def resolve(self, kind: str, choice: Any) -> Any:
        """Return the object that ``choice`` names.

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
        self._of(kind)
        method = _METHODS[kind]
        if method is not None and not callable(getattr(choice, method, None)):
            raise LnbenchError(
                f"{choice!r} is not {_article(kind)}: expected a name, or an object with a method {method!r}"
            )
        return choice

    def canonical(self, kind: str, choice: Any) -> dict[str, Any]:
        """Return ``choice`` in full: ``{"name": …, "parameters": {…}}`` with every default, as JSON data.

        A parameter that was added to a factory later is left out at its default, so that records, and fingerprints of
        what was recorded, are those of before. An object is traced back to the name that makes it; one that no plugin's
        factory made is named by its class.

        Raises:
            LnbenchError: as :meth:`resolve`.
        """
        from pydantic_core import to_jsonable_python

        if isinstance(choice, str | Mapping):
            name, arguments, _ = self._built(kind, choice)
            declared = self._find(kind, name).parameters
        else:
            target = type(self.resolve(kind, choice))
            makers = [maker for entry in self._of(kind) if (maker := entry.making(choice))]
            # A preset says more than the factory it is a preset of.
            maker = max(makers, key=lambda entry: isinstance(entry.factory, functools.partial), default=None)
            name = maker.name if maker else f"{target.__module__}.{target.__qualname__}"
            try:
                declared = parameters_of(maker.factory if maker else target)
                arguments = attributes(declared, choice)
            except (NameError, TypeError, ValueError):
                # A class that was never registered need not have a signature that can be read.
                declared, arguments = {}, {}
        kept = {key: value for key, value in arguments.items() if not declared[key].is_later_default(value)}
        return {"name": name, "parameters": to_jsonable_python(kept, fallback=str)}

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

    def kind_of_control(self, control: str) -> str:
        """Return the kind of plugin that a control is: ``selector``, or ``intervention``.

        Raises:
            LnbenchError: ``control`` is no control.
        """
        known = {
            name: kind
            for kind in ("selector", "intervention")
            for name in self.names(kind)
            if self.declares(kind, name, "is_control")
        }
        name = parse_choice(control)[0]
        if name not in known:
            raise unknown("control", name, known, "These are the plugins that are controls of others")
        return known[name]

    def control_of(self, choice: str, seed: int, control: str = "random") -> str | None:
        """Return the choice that is a control of another; None for one that is a control itself.

        Args:
            choice: What it is a control of: a selector or NeuronSet file, or an intervention, as the control's kind is.
            seed: Which draw.
            control: A control, ``name`` or ``name:key=value``.

        Raises:
            LnbenchError: ``control`` is no control.
        """
        kind = self.kind_of_control(control)
        if self.declares(kind, parse_choice(choice)[0], "is_control"):
            return None
        name, parameters = parse_choice(control)
        return format_choice(name, {**parameters, "like": choice, "seed": seed})

    def declares(self, kind: str, name: str, attribute: str) -> bool:
        """Return whether the class registered as ``name`` sets a true ``attribute``; no other plugin need be sound."""
        targets = [target_of(entry.factory) for entry in self._of(kind) if entry.name == name]
        return any(getattr(target, attribute, False) for target in targets)

    def describe(self) -> list[Registered]:
        """Return every name of every kind, kind by kind."""
        return [entry for kind in kinds for entry in self._of(kind)]

    def command_hooks(self) -> Iterator[tuple[PluginSource, Callable[..., Any]]]:
        """Yield every plugin that adds commands, with its ``lnbench_register_commands``, to be called with ``app=``."""
        for source, manager in self._plugins.values():
            hook = manager.hook.lnbench_register_commands
            if hook.get_hookimpls():
                yield source, hook

    def _of(self, kind: str) -> list[Registered]:
        if kind not in _METHODS:
            raise unknown("kind of plugin", kind, kinds)
        return [entry for entry in self._registered if entry.kind == kind]

    def _find(self, kind: str, name: str) -> Registered:
        entries = self._of(kind)
        if self.broken:
            raise LnbenchError(
                f"{'; '.join(map(str, self.broken))}. Repair or uninstall it, or set {DISABLE}=1 to run without "
                "third-party plugins"
            ) from self.broken[0]
        for entry in entries:
            if match := entry.matching(name):
                return match
        hint = "Parameters are written name:key=value" if ":" in name else "`lnbench plugins` describes them"
        if not _third_parties():
            hint += f"; third-party plugins are switched off by {DISABLE}"
        raise unknown(kind, name, self.names(kind), hint)

    def _built(self, kind: str, choice: str | Mapping[str, Any]) -> tuple[str, dict[str, Any], Any]:
        name: Any
        values: Any
        if isinstance(choice, str):
            name, values = parse_choice(choice)
        else:
            name, values = choice.get("name"), choice.get("parameters") or {}
            if choice.keys() - {"name", "parameters"} or not isinstance(name, str) or not isinstance(values, Mapping):
                raise LnbenchError(
                    f"{dict(choice)!r} is not {_article(kind)}: expected {{'name': …, 'parameters': {{…}}}}"
                )
        entry = self._find(kind, name)
        return entry.name, *entry.build(values)

    def _add(self, plugin: Any, source: PluginSource) -> None:
        if id(plugin) in self._plugins:
            raise LnbenchError(f"plugin {source.plugin!r} ({source}) is registered already")
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        entries = list(self._registered)
        try:
            manager.register(plugin, source.plugin)
            manager.check_pending()
            for kind in kinds:
                register = functools.partial(_register, entries, kind, source)
                getattr(manager.hook, f"lnbench_register_{kind}s")(register=register)
        except LnbenchError:
            raise
        except pluggy.PluginValidationError as error:
            raise LnbenchError(f"{error}; hooks are {_HOOKS}, each called with register") from error
        except Exception as error:
            raise PluginError(f"plugin {source.plugin!r} ({source}) failed: {one_line_error(error)}") from error
        if not manager.get_hookcallers(plugin):
            raise LnbenchError(
                f"plugin {source.plugin!r} ({source}) has no hook: mark its functions with @lnbench.hookimpl; hooks "
                f"are {_HOOKS}"
            )
        self._plugins[id(plugin)] = source, manager
        self._registered = entries


@functools.cache
def get_host() -> Host:
    """Return the host of this process, with the built-ins and all installed plugins; made on the first call."""
    return Host()


def _register(entries: list[Registered], kind: str, source: PluginSource, name: str, factory: Any) -> None:
    entry = Registered(kind, name, factory, source)
    entry.check()
    for other in entries:
        if other.kind == kind and (other.name == name or other.matching(name)):
            raise LnbenchError(
                f"two plugins register the {kind} {name!r}: {other.source} and {source}; uninstall one of them"
            )
    entries.append(entry)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _third_parties() -> bool:
    return os.environ.get(DISABLE, "") in ("", "0")


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


def between_languages(intervention: Any) -> bool:
    """Return whether an intervention needs a source beside its target.

    Raises:
        LnbenchError: as :meth:`Host.resolve`.
    """
    return bool(getattr(get_host().resolve("intervention", intervention), "between_languages", False))


def needs_of_intervention(intervention: Any) -> hookspecs.Needs:
    """Return what the Statistics that an intervention reads must hold beside the site that they are read at.

    Raises:
        LnbenchError: as :meth:`Host.resolve`.
    """
    needs = getattr(get_host().resolve("intervention", intervention), "needs", None)
    return needs if isinstance(needs, hookspecs.Needs) else hookspecs.Needs()


def reads_statistics(intervention: Any) -> bool:
    """Return whether an intervention may read Statistics; one that does not say so may.

    Raises:
        LnbenchError: as :meth:`Host.resolve`.
    """
    return bool(getattr(get_host().resolve("intervention", intervention), "reads_statistics", True))


def whole_site_of(intervention: Any) -> str | None:
    """Return the site all of whose units an intervention changes, whatever was selected; None: it changes neurons.

    Raises:
        LnbenchError: as :meth:`Host.resolve`.
    """
    site = getattr(get_host().resolve("intervention", intervention), "whole_site", None)
    return None if site is None else str(site)


def _builtin_modules() -> list[str]:
    folder = str(Path(__file__).with_name("plugins"))
    return [module.name for module in pkgutil.walk_packages([folder], f"{PROJECT}.plugins.") if not module.ispkg]
