"""Train an adapter, or look into one."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer
from pydantic import Field

from lnbench.cli.listing import NamesGroup
from lnbench.cli.options import Format, Given, chosen_languages, say, show, takes, tell_text
from lnbench.data_folder import default_corpus
from lnbench.errors import LnbenchError
from lnbench.finetuning.job import FinetuneJob
from lnbench.settings import AllLanguages, Corpus, ModelArgsMapping, Settings, Tokens

app = typer.Typer(add_completion=False, cls=NamesGroup, no_args_is_help=True, help=__doc__)


@app.command("FINETUNER")
@takes(FinetuneJob, leave_out=["finetuner"])
def train(context: typer.Context, given: Given) -> None:
    """Train an adapter, restricted to neurons, and save it as an ordinary PEFT adapter.

    FINETUNER is a name, or name:key=value:key=value, of those that lnbench plugins lists: masked_lora:rank=16.

    Example: lnbench finetune masked_lora --neurons lape.json --languages en+hi --preset xnli-paper --out adapter
    """
    job = FinetuneJob(finetuner=str(context.info_name), **given)
    from lnbench.lm.arguments import format_model_args

    if job.selector is not None:
        tell_text(job.corpus, statistics=job.statistics)
    adapter = job.run()
    use = {"pretrained": job.model, **job.model_arguments, "peft": str(adapter)}
    if (adapter / "head.safetensors").exists():
        use["head"] = str(adapter)
    typer.echo(f"written to {adapter}; use it with --model_args {shlex.quote(format_model_args(use))}")


class InspectSettings(Settings):
    """What ``lnbench finetune inspect`` takes."""

    adapter: Path = Field(description="folder of a PEFT adapter")
    model: str | None = Field(
        default=None, description="its base model; needed for adapters that lnbench did not train"
    )
    top: int = Field(default=20, ge=0, description="how many of the most changed neurons to list")
    selector: str | None = Field(
        default=None, description="select neurons with and without the adapter, and compare; by default as its own were"
    )
    corpus: Corpus = Field(default_factory=default_corpus)
    languages: AllLanguages = ()
    tokens: Tokens = 10_000
    model_args: ModelArgsMapping = Field(default={})


@app.command()
@takes(InspectSettings, arguments=["adapter"])
def inspect(given: Given, format_: Format = "terminal") -> None:
    """What an adapter changed: layers and neurons, by how much, and whether the same neurons are still selected.

    The change of the weights is relative to what they were. Neurons are selected with and without the adapter and
    compared, by the selector that chose the adapter's own (not if they are random ones) or by --selector. Of the model
    arguments in the adapter's training.json only those are taken that say how weights are read; give others as
    --model-args.

    Example: lnbench finetune inspect adapter --selector lape:top_fraction=0.01 --languages en+hi
    """
    settings = InspectSettings(**given)
    from lnbench import estimates
    from lnbench.estimates import Work
    from lnbench.finetuning import training_record as record
    from lnbench.finetuning.inspect import own_selector, selection_drift, weight_drift
    from lnbench.finetuning.lora import NEURONS
    from lnbench.lm import LNBenchLM
    from lnbench.neurons import NeuronSet
    from lnbench.tables.neurons import changed_neurons_table, selection_table, weights_table

    named, loaded = record.base_model(record.read(settings.adapter))
    if settings.model is None and named is None:
        raise LnbenchError(f"{settings.adapter} does not say which model it belongs to: pass --model")
    arguments = {**({} if settings.model else loaded), **settings.model_args, "peft": str(settings.adapter)}
    lm = LNBenchLM(settings.model or named, **arguments)
    trained = NeuronSet.load(settings.adapter / NEURONS) if (settings.adapter / NEURONS).exists() else None
    drift = weight_drift(lm.model, trained)
    tables = [weights_table(drift), changed_neurons_table(drift, settings.top)]
    if format_ == "terminal":  # at once; a program gets all of it together
        show(*tables)
        tables.clear()
    again = settings.selector or own_selector(trained)
    if again is None:
        say("how this adapter's neurons were selected is not known: pass --selector to see if they still are", format_)
    else:
        tell_text(settings.corpus, format_)
        compared = chosen_languages(settings.corpus, settings.languages)
        read = 2 * settings.tokens * len(compared)
        work = Work("selecting neurons with and without the adapter", read=read, length=128, counted=1, stored=0)
        estimates.announce(lm.model, work, arguments)
        changed = selection_drift(
            lm.model, lm.tokenizer, settings.corpus, compared, selector=again, tokens=settings.tokens
        )
        tables.append(selection_table(changed, trained))
    if tables:
        show(*tables, format_=format_)
