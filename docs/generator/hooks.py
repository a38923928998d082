"""The plugin contract: every hook and protocol, from ``lnbench.hookspecs``, and the fields of an architecture."""

from __future__ import annotations

import inspect
from typing import Any

from docs.generator.markdown import block, code, docstring, paragraphs, sentence, table
from docs.generator.models import default_text
from docs.generator.python_api import attribute_docstrings, signature
from lnbench import hookspecs
from lnbench.model.architectures import Architecture, Site

HOOKS = [name for name in vars(hookspecs) if name.startswith("lnbench_register_")]
CONTRACTS = ("Selector", "Intervention", "Measure", "FineTuner", "Executor")
DATA = (Site, hookspecs.OverrideContext, hookspecs.Needs, hookspecs.Step)


def body() -> str:
    """The page below its title."""
    hooks = [_described(f"## {code(name)}", name, getattr(hookspecs, name)) for name in HOOKS]
    contracts = [part for name in CONTRACTS for part in _contract(name)]
    return paragraphs(
        "What a plugin can register, and what the registered objects must do. "
        "[How to write a plugin](../plugins.md) has a whole example. Hooks are called once, when plugins are first "
        "needed and before any model is loaded: keep heavy imports inside the methods. They return nothing. A name "
        "that another plugin has taken is an error naming both distributions; an exception in a hook, a factory or a "
        f"method stops the run with the plugin's name. The version of this contract is {hookspecs.CONTRACT}.",
        *hooks,
        *contracts,
        f"## {code('Architecture')}",
        docstring(Architecture.__doc__),
        _architecture(),
        *(part for data in DATA for part in _data(data)),
    )


def _architecture() -> str:
    told = attribute_docstrings(Architecture)
    rows = [
        (code(name), "required" if one.default is one.empty else default_text(one.default), sentence(told[name]))
        for name, one in inspect.signature(Architecture).parameters.items()
    ]
    return table(("field", "default", "meaning"), rows)


def _contract(name: str) -> list[str]:
    contract = getattr(hookspecs, name)
    methods = [
        _described(f"### {code(f'{name}.{method}')}", method, function)
        for method, function in vars(contract).items()
        if inspect.isfunction(function) and not method.startswith("_")
    ]
    return [f"## {code(name)}", docstring(contract.__doc__), *methods]


def _data(data: type) -> list[str]:
    return [f"## {code(data.__name__)}", block(signature(data.__name__, data), "python"), docstring(data.__doc__)]


def _described(heading: str, name: str, function: Any) -> str:
    return paragraphs(heading, block(signature(name, function), "python"), docstring(function.__doc__))
