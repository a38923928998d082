"""Look into NeuronSet files, convert them, and see how stable a selection is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import Field

from lnbench.cli.options import Format, Given, PrintWidth, chosen_languages, say, show, takes
from lnbench.model.architectures import POST, layout_of, units_at
from lnbench.settings import AllLanguages, CorpusSource, Length, ModelArgs, OutFolder, ReadSite, Seed

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)


@app.command("show")
def show_neurons(file: Annotated[Path, typer.Argument(help="NeuronSet file.")], format_: Format = "terminal") -> None:
    """Where a NeuronSet comes from, and its neurons per language and layer.

    Example: lnbench neurons show neurons.json
    """
    from lnbench.figures.labels import selector_label
    from lnbench.neurons import NeuronSet
    from lnbench.tables.neurons import experts_table, layers_table

    neurons = NeuronSet.load(file)
    chosen = "not known" if neurons.selector is None else selector_label(neurons)
    say(f"model {neurons.model}: {layout_of(neurons.widths)} {units_at(neurons.site)}; selector {chosen}", format_)
    show(layers_table(neurons), *([experts_table(neurons)] if neurons.experts else []), format_=format_)


@app.command()
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

    neurons = NeuronSet.load(file)
    table = overlap_table(neurons) if other is None else agreement_table(neurons, NeuronSet.load(other))
    show(table, format_=format_)


@app.command("import")
def import_neurons(
    file: Annotated[Path, typer.Argument(help="Published file, as *.neuron.pth.")],
    model: Annotated[str, typer.Option("--model", help="The model it belongs to.")],
    width: Annotated[
        int,
        typer.Option(
            help="Units per layer of that model: neurons, e.g. 11008 for LLaMA-2-7B, or dimensions, e.g. 4096.", min=1
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="NeuronSet file to write.")],
    languages: Annotated[
        str | None,
        typer.Option(help="Its languages in order, as en+zh+fr+es+vi+id+ja; not needed where the file names them."),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(help="Layers of that model; needed where the file has only those with a neuron.", min=1),
    ] = None,
    site: Annotated[
        Literal["post", "pre", "product", "residual"] | None,
        typer.Option(help="Whose units they are; by default post, and residual of a file of means."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Of a file of means: the language that the others are compared with; en by default."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Of a file of means: dimensions per language; 400 by default.", min=1)
    ] = None,
) -> None:
    """Convert a published neuron file, .pth, .pt or .json, to a NeuronSet.

    The file is read as data; code in it is refused. It does not say which model it belongs to, and often not which
    languages it has, so these are named. Lists and dictionaries by language and layer are read, of indices or of masks,
    pairs of layer and index, and means by language and layer, whose dimensions of largest difference are taken.

    Example: lnbench neurons import LLaMA-2-7B.neuron.pth --languages en+zh+fr+es+vi+id+ja
    --model meta-llama/Llama-2-7b-hf --width 11008 --out published.json
    """
    from lnbench.neurons import NeuronSet

    of_means: dict[str, Any] = {"source": source, "count": count}
    neurons = NeuronSet.import_pth(
        file,
        languages.split("+") if languages else None,
        model=model,
        width=width,
        layers=layers,
        site=site,
        **{name: value for name, value in of_means.items() if value is not None},
    )
    neurons.save(out)
    typer.echo(f"{', '.join(f'{language} {neurons.count(language):,}' for language in neurons.languages)} → {out}")


@app.command()
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


Private = Annotated[bool, typer.Option("--private", help="Make the repository private, if it is not there yet.")]


@app.command()
def push(
    file: Annotated[Path, typer.Argument(help="NeuronSet file.")],
    repository: Annotated[str, typer.Argument(help="Dataset repository of the hub, owner/name.")],
    licence: Annotated[str, typer.Option("--licence", "--license", help="Of the set, as the hub names licences.")] = (
        "cc-by-4.0"
    ),
    private: Private = False,
) -> None:
    """Put a NeuronSet into a dataset repository of the Hugging Face hub, with a card and a figure.

    The card says model, selector, Statistics, the command, the licence, and the counts per language and layer. The
    repository is made if it is not there; log in first, with hf auth login or HF_TOKEN.

    Example: lnbench neurons push neurons.json owner/name --licence cc-by-4.0
    """
    from lnbench import hub_neurons
    from lnbench.neurons import NeuronSet
    from lnbench.neurons_card import push as upload

    commit = upload(NeuronSet.load(file), repository, licence=licence, private=private)
    typer.echo(f"pushed to {hub_neurons.PREFIX}{hub_neurons.repository(repository)[0]}@{commit} ({licence})")


@app.command()
def pull(
    repository: Annotated[
        str, typer.Argument(help="Dataset repository of the hub, owner/name or owner/name@revision.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="NeuronSet file to write.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; main by default.")] = None,
) -> None:
    """Get a NeuronSet from a dataset repository of the Hugging Face hub.

    Wherever a NeuronSet file is named, hub:owner/name or hub:owner/name@revision can be named as well.

    Example: lnbench neurons pull owner/name --revision main --out neurons.json
    """
    from lnbench import hub_neurons
    from lnbench.neurons import NeuronSet

    name, wanted = hub_neurons.repository(repository, revision)
    found = hub_neurons.download(name, wanted)
    neurons = NeuronSet.load(found)
    neurons.save(out)
    counts = ", ".join(f"{language} {neurons.count(language):,}" for language in neurons.languages)
    typer.echo(f"{neurons.model}: {counts} → {out} ({hub_neurons.PREFIX}{name}@{found.parent.name})")


class StabilitySettings(ModelArgs, CorpusSource):
    """What ``lnbench neurons stability`` takes."""

    selectors: list[str] = Field(description="name or name:key=value, e.g. lape:top_fraction=0.02")
    out: OutFolder = Field(description="folder for the counts, stability.json and the figure")
    languages: AllLanguages = ()
    tokens: str | None = Field(
        default=None,
        description="tokens per language, both halves together, as 2M or en=2M+hi=500k; all of the corpus if not given",
    )
    length: Length = 512
    seed: Seed = 0
    site: ReadSite = POST


@app.command()
@takes(StabilitySettings, arguments=["selectors"])
def stability(given: Given, format_: Format = "terminal", width: PrintWidth = "page") -> None:
    """Select on two halves of a corpus, every other document each, and see which neurons come back.

    After an interruption the same command continues where it stopped. More selectors on the same text take seconds.

    Example: lnbench neurons stability lape act_prob --corpus data/{lang}.jsonl.gz --languages en+hi --tokens 200k
    --out stability
    """
    settings = StabilitySettings(**given)
    from lnbench.cli.options import tell, tell_text
    from lnbench.corpora.budgets import parse_tokens
    from lnbench.host import get_host

    tell_text(settings.corpus, format_)
    for selector in settings.selectors:  # before minutes are spent on loading
        get_host().resolve("selector", selector)
    chosen = chosen_languages(settings.corpus, settings.languages, **settings.reading_options)
    budgets = parse_tokens(settings.tokens, chosen)

    from lnbench.analysis.stability import FILE, MODE, measure_stability
    from lnbench.figures import save
    from lnbench.figures.stability import stability as draw
    from lnbench.lm import LNBenchLM
    from lnbench.statistics.corpus_statistics import Reading
    from lnbench.tables.neurons import stability_table

    readings = {
        language: Reading(
            corpus=settings.corpus,
            **settings.reading_options,
            tokens=budgets[language],
            length=settings.length,
            mode=MODE,
            seed=settings.seed,
        )
        for language in chosen
    }
    with tell():
        lm = LNBenchLM(settings.model, **settings.model_args)
        measured = measure_stability(
            lm.model,
            lm.tokenizer,
            settings.selectors,
            settings.out / "halves",
            readings,
            site=settings.site,
            say=lambda text: say(text, format_),
        )
    measured.save(settings.out / FILE)
    show(stability_table(measured), format_=format_)
    files = save(draw(measured), settings.out, width=width)
    say(f"written to {' '.join(map(str, (settings.out / FILE, *files)))}", format_)


class ExplainSettings(ModelArgs, CorpusSource):
    """What ``lnbench neurons explain`` takes."""

    neurons: Path = Field(description="NeuronSet file")
    language: str = Field(description="whose neurons are explained")
    languages: AllLanguages = ()
    top: int = Field(default=20, ge=1, description="contexts per neuron")
    tokens: int | None = Field(default=20_000, ge=1, description="tokens of text per language")
    length: Length = 256
    context: int = Field(default=16, ge=0, description="tokens shown on either side of the active one")
    output_tokens: int = Field(default=10, ge=0, description="output tokens promoted and suppressed, each; 0 for none")
    out: OutFolder | None = Field(default=None, description="folder for explanations.csv and explanations.html")


@app.command()
@takes(ExplainSettings, arguments=["neurons"])
def explain(given: Given, format_: Format = "terminal") -> None:
    """What each neuron of a language fires on, and which output tokens it promotes.

    One pass over the text of every language finds, for all neurons, the contexts with the highest activations, at most
    one per document. The output tokens are those whose logits its column of the down projection raises and lowers most.

    Example: lnbench neurons explain neurons.json --language hi --top 20 --corpus data/{lang}.jsonl.gz --out explained
    """
    settings = ExplainSettings(**given)
    from lnbench.cli.options import tell, tell_text
    from lnbench.neurons import NeuronSet

    tell_text(settings.corpus, format_)
    neurons = NeuronSet.load(settings.neurons)
    own = neurons[settings.language]  # before minutes are spent on loading
    chosen = chosen_languages(settings.corpus, settings.languages or neurons.order, **settings.reading_options)

    from lnbench.analysis.top_examples import top_examples
    from lnbench.corpora.corpus import Corpus
    from lnbench.files import write_text
    from lnbench.lm import LNBenchLM
    from lnbench.report.page import visible
    from lnbench.tables.explanations import explanations_csv, explanations_html, explanations_table

    texts = {code: Corpus(settings.corpus, code, **settings.reading_options) for code in chosen}
    with tell():
        lm = LNBenchLM(settings.model, **settings.model_args)
        explained = top_examples(
            lm.model,
            lm.tokenizer,
            own,
            texts,
            settings.top,
            site=neurons.site,
            length=settings.length,
            context=settings.context,
            tokens=settings.tokens,
            output_tokens=settings.output_tokens,
            progress=True,
        )
    written = {
        "csv": explanations_csv(explained),
        "html": visible(explanations_html(explained, settings.language, neurons)),
    }
    if format_ in written:
        typer.echo(written[format_], nl=False)
    else:
        show(explanations_table(explained, settings.language), format_=format_)
    if settings.out is not None:
        files = [settings.out / f"explanations.{suffix}" for suffix in written]
        for file, text in zip(files, written.values(), strict=True):
            write_text(file, text)
        say(f"written to {' '.join(map(str, files))}", format_)
