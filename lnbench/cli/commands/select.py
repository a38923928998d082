"""``lnbench select``."""

from __future__ import annotations

from pathlib import Path

import typer
from pydantic import Field

from lnbench.cli.options import Format, Given, say, show, takes
from lnbench.settings import AllLanguages, OutFolder, ReadSite, Settings

app = typer.Typer(add_completion=False)


class SelectSettings(Settings):
    """What ``lnbench select`` takes."""

    selector: str = Field(description="name or name:key=value, e.g. lape:top_fraction=0.02")
    statistics: Path = Field(description="Statistics folder")
    out: OutFolder = Field(description="NeuronSet file to write")
    languages: AllLanguages = ()
    site: ReadSite | None = Field(default=None, description="site to read; the folder's own by default")


@app.command()
@takes(SelectSettings, arguments=["selector"])
def select(given: Given, format_: Format = "terminal") -> None:
    """Select language-specific neurons from Statistics.

    Example: lnbench select lape:top_fraction=0.01 --statistics stats --out neurons.json
    """
    settings = SelectSettings(**given)
    from lnbench.choices import select as run
    from lnbench.statistics import Statistics, store
    from lnbench.tables.neurons import account_table, counts_table

    chosen = settings.languages or store.languages(settings.statistics)
    loaded = {language: Statistics.load(settings.statistics, language) for language in chosen}
    seen = {language: statistics.at(settings.site or statistics.site) for language, statistics in loaded.items()}
    neurons = run(settings.selector, seen)
    neurons.save(settings.out)
    show(counts_table({settings.selector: neurons}, neurons.languages), account_table(neurons), format_=format_)
    say(f"written to {settings.out}", format_)
