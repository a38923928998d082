"""``lnbench finetune``: a fine-tuner by name, or ``inspect``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from lnbench.cli.options import (
    Corpus,
    Format,
    Languages,
    Model,
    ModelArgs,
    chosen_languages,
    model_arguments,
    say,
    show,
)
from lnbench.errors import LnbenchError
from lnbench.model.packaged import DEFAULT_MODEL

_TRAIN = "FINETUNER"


class _FineTuners(typer.core.TyperGroup):
    """Takes a word that is none of its commands for the name of a fine-tuner, which can be a plugin's."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ARG002
        name = args[0]
        return name, self.commands.get(name, self.commands[_TRAIN]), args[1:]


finetune = typer.Typer(cls=_FineTuners, no_args_is_help=True, help="Train an adapter, or look into one.")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(finetune, name="finetune")


@finetune.command(_TRAIN)
def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the adapter.")],
    model: Model = DEFAULT_MODEL,
    neurons: Annotated[Path | None, typer.Option("--neurons", help="NeuronSet file.")] = None,
    selector: Annotated[
        str | None, typer.Option(help="In place of a file: name or name:key=value, run on --statistics or --corpus.")
    ] = None,
    statistics: Annotated[Path | None, typer.Option(help="Statistics folder for the selector.")] = None,
    corpus: Corpus = None,
    languages: Annotated[
        str | None, typer.Option("--languages", help="Whose neurons train: en, en+hi, random, all or none.")
    ] = None,
    other_model: Annotated[
        bool, typer.Option("--other-model", help="Take neurons of a model of another name: a copy, or close to it.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="xnli, xquad, squad, or an lm-eval task with a training split; the preset's by default, else xnli."
        ),
    ] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with lm-eval tasks of your own.")] = None,
    preset: Annotated[str | None, typer.Option(help="xnli-paper or xquad-paper.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A training setting, lr=0.0002; can be repeated.")
    ] = None,
    quantize: Annotated[
        str, typer.Option(help="none, or nf4: 4-bit base weights with double quantisation, bfloat16 compute.")
    ] = "none",
    model_args: ModelArgs = "",
) -> None:
    """Train an adapter, restricted to neurons, and save it as an ordinary PEFT adapter.

    FINETUNER is a name, or name:key=value:key=value, of those that lnbench plugins lists: masked_lora:rank=16.

    Example: lnbench finetune masked_lora --neurons lape.json --languages en+hi --preset xnli-paper --out adapter
    """
    from lnbench.finetuning.job import FinetuneJob
    from lnbench.lm.arguments import format_model_args

    job = FinetuneJob(
        finetuner=str(context.info_name),
        out=out,
        model=model,
        model_args=model_arguments(model_args),
        quantize=quantize,
        neurons=neurons,
        selector=selector,
        statistics=statistics,
        corpus=corpus,
        languages=languages,
        other_model=other_model,
        data=data,
        include_path=include_path,
        preset=preset,
        settings=dict(_pair(text) for text in setting or ()),
    )
    adapter = job.run()
    use = {"pretrained": model, **job.model_arguments, "peft": str(adapter)}
    if (adapter / "head.safetensors").exists():
        use["head"] = str(adapter)
    typer.echo(f"written to {adapter}; use it with --model_args {shlex.quote(format_model_args(use))}")


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise LnbenchError(f"--set takes name=value, not {text!r}")
    return name.strip(), value.strip()


@finetune.command()
def inspect(
    adapter: Annotated[Path, typer.Argument(help="Folder of a PEFT adapter.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Its base model; needed for adapters that lnbench did not train.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many of the most changed neurons to list.", min=0)] = 20,
    selector: Annotated[
        str | None,
        typer.Option(help="Select neurons with and without the adapter, and compare; by default as its own were."),
    ] = None,
    corpus: Corpus = None,
    languages: Languages = None,
    tokens: Annotated[int, typer.Option(help="Tokens a language, for the selector.", min=1)] = 10_000,
    model_args: ModelArgs = "",
    format_: Format = "terminal",
) -> None:
    """What an adapter changed: layers and neurons, by how much, and whether the same neurons are still selected.

    The change of the weights is relative to what they were. Neurons are selected with and without the adapter and
    compared, by the selector that chose the adapter's own (not if they are random ones) or by --selector. Of the model
    arguments in the adapter's training.json only those are taken that say how weights are read; give others as
    --model-args.

    Example: lnbench finetune inspect adapter --selector lape:top_fraction=0.01 --languages en+hi
    """
    from lnbench import demo as embedded
    from lnbench.finetuning import training_record as record
    from lnbench.finetuning.inspect import (
        own_selector,
        selection_drift,
        weight_drift,
    )
    from lnbench.finetuning.lora import NEURONS
    from lnbench.lm import LNBenchLM
    from lnbench.neurons import NeuronSet
    from lnbench.tables.neurons import changed_neurons_table, selection_table, weights_table

    named, loaded = record.base_model(record.read(adapter))
    if model is None and named is None:
        raise LnbenchError(f"{adapter} does not say which model it belongs to: pass --model")
    arguments = {**({} if model else loaded), **model_arguments(model_args), "peft": str(adapter)}
    lm = LNBenchLM(model or named, **arguments)
    trained = NeuronSet.load(adapter / NEURONS) if (adapter / NEURONS).exists() else None
    drift = weight_drift(lm.model, trained)
    show(weights_table(drift), changed_neurons_table(drift, top), format_=format_)
    again: Any = selector or own_selector(trained)
    if again is None:
        say("how this adapter's neurons were selected is not known: pass --selector to see if they still are", format_)
    else:
        compared = chosen_languages(corpus, languages)
        changed = selection_drift(
            lm.model,
            lm.tokenizer,
            corpus or embedded.CORPUS,
            compared,
            selector=again,
            trained=trained,
            tokens=tokens,
        )
        show(selection_table(changed), format_=format_)
