"""``lnbench generate``."""

from __future__ import annotations

import re
from pathlib import Path

import typer
from pydantic import Field

from lnbench.cli.options import Format, Given, show, takes, tell, tell_text
from lnbench.errors import LnbenchError
from lnbench.settings import ModelArgs, Positions, StatisticsSource

app = typer.Typer(add_completion=False)


class GenerateSettings(ModelArgs, StatisticsSource, Positions):
    """What ``lnbench generate`` takes."""

    prompts: list[str] = Field(description="prompts to continue")
    neurons: Path = Field(description="NeuronSet file")
    interventions: str = Field(
        default="none,zero", description="names, or name:key=value, as none,zero,mean; one column each and per language"
    )
    languages: str = Field(default="", description="whose neurons are changed, as hi,zh; all of the set by default")
    source: str | None = Field(
        default=None, description="language that an answer would be in, for interventions between two, as swap"
    )
    max_new_tokens: int = Field(default=60, ge=1, description="tokens written, at most")
    seeds: str = Field(default="", description="one sampled continuation for each, as 0,1,2; greedy if not given")
    temperature: float = Field(default=1.0, gt=0, description="of the sampling")
    top_p: float = Field(default=1.0, gt=0, le=1, description="share of the probability that is sampled from")
    chat: bool = Field(default=False, description="put prompts into the model's chat template, as a user's turn")


def _split(text: str, separators: str = ",") -> list[str]:
    return [part for part in map(str.strip, re.split(f"[{separators}]", text)) if part]


@app.command()
@takes(GenerateSettings, arguments=["prompts"])
def generate(given: Given, format_: Format = "terminal") -> None:
    """What the model writes after a prompt under several interventions, side by side, with each line's language.

    Interventions between two languages, as swap, go from --source to each of --languages: --source en --languages hi,zh
    has a column for en→hi and one for en→zh.

    Example: lnbench generate "The weather today" --neurons neurons.json --interventions none,zero,mean
    --languages hi,zh
    """
    settings = GenerateSettings(**given)
    interventions, languages = _split(settings.interventions), _split(settings.languages, ",+")
    seeds = _split(settings.seeds, ",+")
    if strange := [seed for seed in seeds if not re.fullmatch("[0-9]+", seed)]:
        raise LnbenchError(f"--seeds: {strange[0]!r} is no whole number; write them as 0,1,2")

    from lnbench.host import between_languages, reads_statistics
    from lnbench.neurons import NeuronSet

    for intervention in interventions:  # before minutes are spent on loading
        if between_languages(intervention) and settings.source is None:
            raise LnbenchError(
                f"intervention {intervention!r} works between two languages: name the source with --source, as "
                "--source en; --languages are the targets"
            )
    neurons = NeuronSet.load(settings.neurons)
    for language in [*languages, *([settings.source] if settings.source else [])]:
        neurons[language]

    from lnbench.analysis.side_by_side import generate_side_by_side
    from lnbench.lm import LNBenchLM
    from lnbench.lm.experiment import Experiment
    from lnbench.tables.side_by_side import side_by_side_table

    shared = {name: getattr(settings, name) for name in (*StatisticsSource.model_fields, "positions", "source")}
    experiment = Experiment(**shared, neurons=str(settings.neurons))
    read = [*(languages or neurons.order), *([settings.source] if settings.source else [])]
    needed = any(map(reads_statistics, interventions))
    if needed:
        tell_text(settings.corpus, format_, statistics=settings.statistics)
    with tell():
        lm = LNBenchLM(settings.model, **settings.model_args)
        lm.artifacts.neurons(experiment)
        statistics = {code: lm.artifacts.statistics(experiment, code) for code in read} if needed else {}
        result = generate_side_by_side(
            lm.model,
            lm.tokenizer,
            settings.prompts,
            neurons,
            interventions,
            languages,
            statistics=statistics,
            source=settings.source,
            max_new_tokens=settings.max_new_tokens,
            seeds=[int(seed) for seed in seeds],
            temperature=settings.temperature,
            top_p=settings.top_p,
            chat=settings.chat,
            site=experiment.sites.write,
            positions=settings.positions,
        )
    show(side_by_side_table(result, numbers=format_ in ("csv", "json")), format_=format_)
