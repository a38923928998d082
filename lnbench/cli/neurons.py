"""``lnbench select`` and ``lnbench neurons``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnbench.cli.options import Format, Languages, Site, say, show

neurons = typer.Typer(help="Look into NeuronSet files, and convert them.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(select)
    app.add_typer(neurons, name="neurons")


def select(
    selector: Annotated[str, typer.Argument(help="Name or name:key=value, e.g. lape:top_fraction=0.02.")],
    statistics: Annotated[Path, typer.Option("--statistics", help="Statistics folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="NeuronSet file to write.")],
    languages: Languages = None,
    site: Annotated[Site | None, typer.Option(help="Site to read; the folder's own by default.")] = None,
    format_: Format = "terminal",
) -> None:
    """Select language-specific neurons from Statistics.

    Example: lnbench select lape:top_fraction=0.01 --statistics stats --out neurons.json
    """
    from lnbench.choices import select as run
    from lnbench.statistics import Statistics, store
    from lnbench.tables.neurons import counts_table

    chosen = languages.split("+") if languages else store.languages(statistics)
    loaded = {language: Statistics.load(statistics, language) for language in chosen}
    found = run(selector, {language: one.at(site or one.site) for language, one in loaded.items()})
    found.save(out)
    show(counts_table({selector: found}, found.languages), format_=format_)
    say(f"written to {out}", format_)


@neurons.command("show")
def show_neurons(file: Annotated[Path, typer.Argument(help="NeuronSet file.")], format_: Format = "terminal") -> None:
    """Where a NeuronSet comes from, and its neurons per language and layer.

    Example: lnbench neurons show neurons.json
    """
    from lnbench.neurons import NeuronSet
    from lnbench.tables.neurons import layers_table

    found = NeuronSet.load(file)
    say(f"model {found.model}: {found.layers} layers x {found.width} neurons; selector {found.selector}", format_)
    show(layers_table(found), format_=format_)


@neurons.command()
def overlap(
    file: Annotated[Path, typer.Argument(help="NeuronSet file.")],
    other: Annotated[Path | None, typer.Argument(help="A second one, to compare language by language.")] = None,
    format_: Format = "terminal",
) -> None:
    """Neurons that languages share; or, with a second file, that two selectors share.

    Example: lnbench neurons overlap lape.json act_prob.json
    """
    from lnbench.neurons import NeuronSet
    from lnbench.tables.neurons import agreement_table, overlap_table

    found = NeuronSet.load(file)
    table = overlap_table(found) if other is None else agreement_table(found, NeuronSet.load(other))
    show(table, format_=format_)


@neurons.command("import")
def import_neurons(
    file: Annotated[Path, typer.Argument(help="Published *.neuron.pth file.")],
    languages: Annotated[str, typer.Option(help="Its languages in order, as en+zh+fr+es+vi+id+ja.")],
    model: Annotated[str, typer.Option("--model", help="The model it belongs to.")],
    width: Annotated[int, typer.Option(help="Neurons per layer of that model, e.g. 11008 for LLaMA-2-7B.", min=1)],
    out: Annotated[Path, typer.Option("--out", "-o", help="NeuronSet file to write.")],
) -> None:
    """Convert a published neuron file to a NeuronSet.

    The file is read as data; code in it is refused. It holds neither languages nor the model, so they are named.

    Example: lnbench neurons import LLaMA-2-7B.neuron.pth --languages en+zh+fr+es+vi+id+ja
    --model meta-llama/Llama-2-7b-hf --width 11008 --out published.json
    """
    from lnbench.neurons import NeuronSet

    found = NeuronSet.import_pth(file, languages.split("+"), model=model, width=width)
    found.save(out)
    typer.echo(f"{', '.join(f'{language} {found.count(language):,}' for language in found.languages)} → {out}")


@neurons.command()
def export(
    file: Annotated[Path, typer.Argument(help="NeuronSet file.")],
    out: Annotated[Path, typer.Argument(help="File to write; its suffix decides: .pth, .csv or .json.")],
) -> None:
    """Write a NeuronSet in another format.

    Example: lnbench neurons export neurons.json neurons.csv
    """
    from lnbench.neurons import NeuronSet

    NeuronSet.load(file).export(out)
    typer.echo(f"written to {out}")
