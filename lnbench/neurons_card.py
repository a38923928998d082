"""What ``lnbench neurons push`` puts on the hub: a NeuronSet, its card, and a figure."""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path

import yaml

from lnbench import hub_neurons
from lnbench._version import __version__
from lnbench.errors import LnbenchError
from lnbench.host import get_host
from lnbench.model.architectures import POST, layout_of, units_at
from lnbench.neurons import NeuronSet
from lnbench.parameters import format_choice

CARD, FIGURE = "README.md", "neurons_per_layer.png"
LICENCE = "cc-by-4.0"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def push(neurons: NeuronSet, repo: str, *, licence: str = LICENCE, private: bool = False) -> str:
    """Put a NeuronSet into a dataset repository of the hub, with a card and a figure; return the commit.

    Args:
        neurons: The set.
        repo: ``owner/name``; made if it is not there.
        licence: Of the set, as the hub names licences.
        private: Whether a repository that is made is private.

    Raises:
        LnbenchError: no such name or licence, a set without languages, the hub refuses, or cannot be reached.
    """
    name, revision = hub_neurons.repository(repo)
    if revision is not None:
        raise LnbenchError(f"{repo}: what is pushed becomes a new commit of the main branch; leave out @{revision}")
    if not _LICENCE.fullmatch(licence):
        raise LnbenchError(f"--licence {licence!r}: write it as the hub does, as {LICENCE}, cc0-1.0 or apache-2.0")
    return hub_neurons.upload(name, repository_files(neurons, name, licence), _title(neurons), private=private)


def repository_files(neurons: NeuronSet, repo: str, licence: str = LICENCE) -> dict[str, bytes]:
    """Return path → content of a NeuronSet's repository.

    Raises:
        LnbenchError: the set has no languages.
    """
    from lnbench.figures import save
    from lnbench.figures.neurons_per_layer import neurons_per_layer

    figure = neurons_per_layer(neurons)
    with tempfile.TemporaryDirectory() as folder:
        (drawn, _) = save(figure, folder, ["png"])
        neurons.save(Path(folder, hub_neurons.FILE))
        return {
            hub_neurons.FILE: Path(folder, hub_neurons.FILE).read_bytes(),
            CARD: card(neurons, repo, licence, figure.alt).encode(),
            FIGURE: drawn.read_bytes(),
        }


def card(neurons: NeuronSet, repo: str, licence: str = LICENCE, alt: str = "") -> str:
    """Return the card of a NeuronSet's repository: Markdown below the hub's metadata.

    Args:
        neurons: The set.
        repo: ``owner/name``.
        licence: Of the set, as the hub names licences.
        alt: The figure in a sentence.
    """
    from lnbench.tables.neurons import counts_table, layers_table
    from lnbench.tables.render import markdown

    metadata = {
        "license": licence,
        "pretty_name": _title(neurons),
        "viewer": False,
        "tags": ["lnbench", "language-specific-neurons", "interpretability"],
        **({"base_model": neurons.model} if hub_neurons.is_repository(neurons.model) else {}),
    }
    name = None if neurons.selector is None else neurons.selector["name"]
    facts = {
        "model": f"`{_plain(neurons.model)}`",
        "units": f"{units_at(neurons.site)} of the site `{neurons.site}`: {layout_of(neurons.widths)}",
        "selector": f"`{_plain(_choice(neurons))}`" if name else "not recorded",
        "parameters": _parameters(neurons),
        "Statistics": f"`{neurons.statistics}` (fingerprint)" if neurons.statistics else "not recorded",
        "text": {True: "in the model's chat format", False: "raw", None: "not recorded"}[neurons.chat],
        "fingerprint": f"`{neurons.fingerprint}`",
        "licence": licence,
        "card": f"by lnbench {__version__}",
    }
    made = (
        f"Selected from Statistics of the model by\n\n```sh\n{_command(neurons)}\n```\n"
        if name
        else "The file does not record the command that made it."
    )
    return _CARD.format(
        metadata=yaml.safe_dump(metadata, allow_unicode=True, sort_keys=False),
        title=_plain(_title(neurons)),
        facts="\n".join(f"| {what} | {text} |" for what, text in facts.items()),
        made=made,
        repo=repo,
        alt=alt,
        figure=FIGURE,
        counts=markdown(counts_table({_choice(neurons): neurons}, neurons.languages)),
        layers=markdown(layers_table(neurons)),
    )


_CARD = """\
---
{metadata}---

# {title}

| | |
|---|---|
{facts}

{made}

Use it:

```sh
lnbench neurons pull {repo} --out neurons.json
lm_eval --model lnbench --model_args pretrained=MODEL,neurons=hub:{repo},intervention=zero --tasks TASKS
```

## Counts

![{alt}]({figure})

{counts}
{layers}"""


def _choice(neurons: NeuronSet) -> str:
    """Return the selector as users write it, without its defaults; of a plugin that is not installed, with them."""
    if neurons.selector is None:
        return "neurons"
    name, parameters = neurons.selector["name"], neurons.selector["parameters"]
    defaults = get_host().defaults("selector", name) if name in get_host().names("selector") else None
    return format_choice(name, parameters, defaults)


def _parameters(neurons: NeuronSet) -> str:
    parameters = (neurons.selector or {}).get("parameters") or {}
    return ", ".join(f"`{_plain(f'{name}={value}')}`" for name, value in parameters.items()) or "–"


def _command(neurons: NeuronSet) -> str:
    site = [] if neurons.site == POST else ["--site", neurons.site]
    words = ["lnbench", "select", _choice(neurons), "--statistics", "STATISTICS", *site, "--out", hub_neurons.FILE]
    return shlex.join(words)


def _title(neurons: NeuronSet) -> str:
    return f"Language-specific {units_at(neurons.site)} of {neurons.model}"


def _plain(text: str) -> str:
    """Return a text that cannot leave its cell or line of a card."""
    return re.sub(r"\s+", " ", text).replace("|", "/").replace("`", "'").replace("<", "&lt;")
