"""The command line: parse, call, print. What a command does lives in the module that it imports."""

from __future__ import annotations

import os
import sys
import traceback as tracebacks
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lnbench import __version__
from lnbench.errors import LnbenchError
from lnbench.models import DEFAULT_MODEL

_INTERRUPTED = 130

app = typer.Typer(
    name="lnbench",
    help="Find language-specific neurons in a multilingual LLM, override them, and measure the effect with lm-eval.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
stats = typer.Typer(invoke_without_command=True)
neurons = typer.Typer(help="Look into NeuronSet files, and convert them.", no_args_is_help=True)
app.add_typer(stats, name="stats")
app.add_typer(neurons, name="neurons")


class Site(StrEnum):
    """Where a neuron is read."""

    POST = "post"
    PRE = "pre"


Model = Annotated[str, typer.Option("--model", help="Packaged model, hub name or folder, as lm-eval's hf takes it.")]
ModelArgs = Annotated[
    str, typer.Option("--model-args", help="More of lm-eval's model arguments: dtype=bfloat16,load_in_4bit=True,peft=…")
]
Languages = Annotated[str | None, typer.Option("--languages", help="Languages, as en+hi+zh; all by default.")]
Corpus = Annotated[
    str | None,
    typer.Option(
        "--corpus", help="Path with {lang}, folder, or hub dataset repo:config; the embedded text by default."
    ),
]


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if traceback:
        os.environ["LNBENCH_TRACEBACK"] = "1"


@app.command()
def demo(
    model: Model = DEFAULT_MODEL,
    corpus: Corpus = None,
    languages: Languages = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for all results.")] = Path("runs/demo"),
    limit: Annotated[int, typer.Option(help="Documents in each cell; 0 for all.", min=0)] = 10,
    tokens: Annotated[int, typer.Option(help="Tokens of text read in each language, at most.", min=1)] = 10_000,
    task: Annotated[str, typer.Option(help="Task to measure, with {lang}.")] = "lnbench_demo_continuation_{lang}",
    model_args: ModelArgs = "",
) -> None:
    """Do the whole job on the embedded text: statistics, selection, overrides, lm-eval, leaderboard.

    Example: lnbench demo --model Qwen/Qwen3-0.6B-Base --corpus data/{lang}.jsonl.gz --languages en+hi --out runs/qwen
    """
    from lnbench import demo as embedded
    from lnbench.demo.run import run

    run(
        model,
        out,
        corpus=corpus or embedded.CORPUS,
        languages=_languages(corpus, languages) if languages else None,
        task=task,
        limit=limit or None,
        corpus_tokens=tokens,
        model_args=_arguments(model_args),
    )


@stats.callback()
def collect(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Statistics folder to write.")] = None,
    model: Model = DEFAULT_MODEL,
    corpus: Corpus = None,
    languages: Languages = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens a language; all of the corpus by default.", min=1)] = None,
    length: Annotated[int, typer.Option(help="Tokens in a block, BOS included.", min=2)] = 512,
    batch_size: Annotated[int | None, typer.Option(help="Blocks in a forward pass.", min=1)] = None,
    skip: Annotated[int, typer.Option(help="Positions not counted at the start of a block.", min=0)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the documents' order.")] = 0,
    site: Annotated[Site, typer.Option(help="Site shown first; both are collected.")] = Site.POST,
    batch_level: Annotated[
        list[float] | None,
        typer.Option(help="Also keep the mean of the batches' quantiles at this level.", min=0, max=1),
    ] = None,
    model_args: ModelArgs = "",
) -> None:
    """Read text in every language and write each neuron's statistics to a folder.

    Example: lnbench stats --model gemma-3-270m --corpus data/{lang}.jsonl.gz --languages en+hi --out stats
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise LnbenchError("pass --out FOLDER for the Statistics, or see lnbench stats --help")
    from lnbench import demo as embedded
    from lnbench.lm import LNBenchLM
    from lnbench.statistics.corpus import collect_corpus

    chosen = _languages(corpus, languages)  # before minutes are spent on loading
    lm = LNBenchLM(model, **_arguments(model_args))
    for language in chosen:
        collected = collect_corpus(
            lm.model,
            lm.tokenizer,
            corpus or embedded.CORPUS,
            language,
            tokens=tokens,
            length=length,
            batch_size=batch_size,
            skip=skip,
            seed=seed,
            site=site,
            batch_levels=tuple(batch_level or ()),
        )
        typer.echo(f"{language}: {collected.tokens:,} tokens → {collected.save(out)}")


@stats.command("show")
def show_statistics(folder: Annotated[Path, typer.Argument(help="Statistics folder.")]) -> None:
    """Averages over all neurons, by language and site: mean, percentiles, share positive.

    Example: lnbench stats show stats
    """
    from lnbench.tables import averages_table

    _print(averages_table(folder))


@app.command()
def select(
    selector: Annotated[str, typer.Argument(help="name or name:key=value, e.g. lape:top_fraction=0.02")],
    statistics: Annotated[Path, typer.Option("--statistics", help="Statistics folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="NeuronSet file to write.")],
    languages: Languages = None,
    site: Annotated[Site | None, typer.Option(help="Site to read; the folder's own by default.")] = None,
) -> None:
    """Select language-specific neurons from Statistics.

    Example: lnbench select lape:top_fraction=0.01 --statistics stats --out neurons.json
    """
    from lnbench.selection import select as run
    from lnbench.statistics import Statistics, store
    from lnbench.tables import counts_table

    chosen = languages.split("+") if languages else store.languages(statistics)
    loaded = {language: Statistics.load(statistics, language) for language in chosen}
    found = run(selector, {language: one.at(site or one.site) for language, one in loaded.items()})
    found.save(out)
    _print(counts_table({selector: found}, found.languages))
    typer.echo(f"written to {out}")


@neurons.command("show")
def show_neurons(file: Annotated[Path, typer.Argument(help="NeuronSet file.")]) -> None:
    """Where a NeuronSet comes from, and its neurons per language and layer.

    Example: lnbench neurons show neurons.json
    """
    from lnbench.neurons import NeuronSet
    from lnbench.tables import layers_table

    found = NeuronSet.load(file)
    typer.echo(f"model {found.model}: {found.layers} layers x {found.width} neurons; selector {found.selector}")
    _print(layers_table(found))


@neurons.command()
def overlap(
    file: Annotated[Path, typer.Argument(help="NeuronSet file.")],
    other: Annotated[Path | None, typer.Argument(help="A second one, to compare language by language.")] = None,
) -> None:
    """Neurons that languages share; or, with a second file, that two selectors share.

    Example: lnbench neurons overlap lape.json act_prob.json
    """
    from lnbench.neurons import NeuronSet
    from lnbench.tables import agreement_table, overlap_table

    found = NeuronSet.load(file)
    _print(overlap_table(found) if other is None else agreement_table(found, NeuronSet.load(other)))


@neurons.command("import")
def import_neurons(
    file: Annotated[Path, typer.Argument(help="Published *.neuron.pth file.")],
    languages: Annotated[str, typer.Option(help="Its languages in order, as en+zh+fr+es+vi+id+ja.")],
    model: Annotated[str, typer.Option("--model", help="The model it belongs to.")],
    width: Annotated[int, typer.Option(help="Neurons per layer of that model, e.g. 11008 for LLaMA-2-7B.", min=1)],
    out: Annotated[Path, typer.Option("--out", "-o", help="NeuronSet file to write.")],
) -> None:
    """Convert a published neuron file to a NeuronSet.

    Example: lnbench neurons import LLaMA-2-7B.neuron.pth --languages en+zh+fr+es+vi+id+ja
    --model meta-llama/Llama-2-7b-hf --width 11008 --out lape.json
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


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def eval(context: typer.Context) -> None:  # noqa: A001
    """Run lm_eval with lnbench's tasks included and --model lnbench; everything is passed on to it.

    Example: lnbench eval --model_args intervention=p10,corpus=data/{lang}.jsonl.gz --tasks lnbench_xnli_hi --limit 50
    """
    from lnbench.lm.command_line import run

    run(context.args)


@app.command()
def tasks() -> None:
    """Print the folder of lnbench's tasks, for lm_eval --include_path.

    Example: lm_eval --model lnbench --include_path "$(lnbench tasks)" --tasks lnbench_demo
    """
    from lnbench.paths import tasks_dir

    typer.echo(tasks_dir())


@app.command()
def plugins() -> None:
    """List selectors, interventions, fine-tuners and architectures, with their parameters and where they come from.

    Example: lnbench plugins
    """
    from lnbench.doctor import plugins_table

    _print(plugins_table())


@app.command()
def doctor() -> None:
    """Check the installation: versions, devices, what lm-eval sees, broken plugins. Exit code 1 if something is wrong.

    Example: lnbench doctor
    """
    from lnbench.doctor import examine

    if not examine():
        raise typer.Exit(1)


def _languages(corpus: str | None, languages: str | None) -> list[str]:
    from lnbench import demo as embedded
    from lnbench.corpora import choose_languages

    if corpus is None and languages is None:
        return list(embedded.LANGUAGES)
    return choose_languages(corpus or embedded.CORPUS, languages.split("+") if languages else None)


def _arguments(text: str) -> dict[str, Any]:
    if wrong := [part for part in text.split(",") if part.strip() and not part.partition("=")[1]]:
        raise LnbenchError(f"--model-args takes key=value,key=value …, not {wrong[0].strip()!r}")
    from lm_eval.utils import simple_parse_args_string

    return dict(simple_parse_args_string(text))


def _print(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main() -> None:
    """Entry point: errors are one line on stderr and exit code 2."""
    try:
        # Typer would frame usage errors, over several lines; this way it raises them.
        code = app(standalone_mode=False)
    except typer.Abort as stop:
        # Typer makes one of Ctrl-C, in some releases, and of the end of a file that is cut off.
        if isinstance(stop.__cause__, Exception):
            _fail(stop.__cause__)
        code = _INTERRUPTED
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:
        _fail(error)
    if code == _INTERRUPTED:
        _say("interrupted")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: Exception) -> NoReturn:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
    elif os.environ.get("LNBENCH_TRACEBACK"):
        tracebacks.print_exception(error)
    else:
        _say(_line(error))
    sys.exit(2)


def _line(error: Exception) -> str:
    """What is wrong, in one line."""
    usage = getattr(error, "format_message", None)  # of click's errors, wherever this release of typer keeps them
    if usage or isinstance(error, LnbenchError):
        return " ".join(str(usage() if usage else error).split("\n"))
    lines = str(error).strip().splitlines() or [""]
    named = lines[0] and not isinstance(error, KeyError)  # a KeyError's text is the bare key
    return f"{lines[0] if named else repr(error)} (run with --traceback for details)"


def _say(message: str) -> None:
    typer.echo(f"lnbench: {message}", err=True)


if __name__ == "__main__":
    main()
