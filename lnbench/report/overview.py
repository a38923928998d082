"""What was run: models, neurons, text, tasks, adapters, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lnbench.data_folder import name_of_text
from lnbench.leaderboard import Row
from lnbench.report.inputs import Sources, mapping
from lnbench.tables.table import Cell, Table, TableRow
from lnbench.tables.words import NOTHING, number, range_of

_MODEL = ("model", "revision", "dtype", "quantization", "weights", "adapter")
_VERSIONS = ("lnbench", "lm_eval", "transformers", "torch", "datasets")
_SHARES = 3
"""Scripts and languages that are named of a text."""


def overview(sources: Sources) -> list[Table]:
    """Return a table for each kind of thing that there is."""
    tables = (_models, _neurons, _text, _tasks, _adapters, _versions)
    return [table for make in tables if (table := make(sources)).rows]


def models(sources: Sources) -> list[str]:
    """Return the models measured, as they were named."""
    of_sets = [neurons.model for neurons in sources.neurons.values()]
    reproduced = [name for reproduction in sources.reproductions.values() for name in reproduction.models]
    measured = [part.model for part in _measured(sources)]
    return list(dict.fromkeys(filter(None, map(sources.named, measured or reproduced or of_sets))))


def dates(sources: Sources) -> tuple[str, str] | None:
    """Return the first and the last day on which something was measured."""
    parts = [*_measured(sources), *sources.reproductions.values()]
    days = [part.finished_at[:10] for part in parts if part.finished_at]
    return (min(days), max(days)) if days else None


def _measured(sources: Sources) -> list[Any]:
    return [*sources.shown_rows, *sources.shown_matrices.values()]


def _table(title: str, labels: Sequence[str], rows: Iterable[Sequence[object]], columns: Sequence[str] = ()) -> Table:
    """Return a table of text; numbers, in the last ``columns``, with marks between thousands."""

    def shown(value: object) -> str:
        return f"{value:,}" if isinstance(value, int) else NOTHING if value in (None, "") else str(value)

    words = len(labels)
    texts = [[shown(value) for value in row] for row in rows]
    return Table(title, labels, columns, [TableRow(row[:words], list(map(Cell, row[words:]))) for row in texts])


def _models(sources: Sources) -> Table:
    measured = [part for part in _measured(sources) if not getattr(part, "failed", False)]
    rows = dict.fromkeys(tuple(getattr(part, name) for name in _MODEL) for part in measured)
    labels = ["Model", "Revision", "Type", "Quantisation", "Weights", "Adapter"]
    return _table("Models, with the fingerprints of their weights", labels, rows)


def _neurons(sources: Sources) -> Table:
    counts = {name: {code: neurons.count(code) for code in neurons} for name, neurons in sources.neuron_sets.items()}
    for info in sources.overrides.values():
        if info.neurons and not info.control:
            counts.setdefault(sources.named(info.selector), dict(info.neurons))
    languages = list(dict.fromkeys(language for by_language in counts.values() for language in by_language))
    rows = [[name, *map(by_language.get, languages)] for name, by_language in counts.items()]
    return _table("Neurons of each language, by selector", ["Selector"], rows, languages)


def _text(sources: Sources) -> Table:
    rows = [
        (
            language,
            name_of_text(about.get("corpus_pattern", NOTHING)),
            about.get("site"),
            *map(_shares(about).get, ("scripts", "languages", "foreign")),
            about.get("tokens"),
        )
        for manifest in sources.statistics.values()
        for language, about in mapping(manifest.get("languages")).items()
    ]
    infos = [info for info in sources.overrides.values() if info.corpus and info.read_site]
    read = {("each", name_of_text(info.corpus), info.read_site, info.corpus_tokens) for info in infos}
    labels = ["Language", "Text", "Site"]
    title = "Text that the Statistics were collected from"
    if not rows:
        return _table(title, labels, sorted(read, key=str), ["Tokens"])
    return _table(title, [*labels, "Lines by script", "Lines by language", "Foreign lines"], rows, ["Tokens"])


def _shares(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the shares of a text's lines in words; none where Statistics of an earlier lnbench do not say."""
    shares = mapping(about.get("text_shares"))
    foreign = shares.get("foreign")
    named = {
        name: ", ".join(f"{share:.1%} {part}" for part, share in list(mapping(shares.get(name)).items())[:_SHARES])
        for name in ("scripts", "languages")
    }
    return named | ({"foreign": f"{foreign:.1%}"} if isinstance(foreign, float) else {})


def _tasks(sources: Sources) -> Table:
    by_task: dict[str, list[Row]] = {}
    for row in sources.shown_rows:
        by_task.setdefault(row.task_pattern, []).append(row)
    rows = [
        (
            task,
            _joined(row.task_version for row in rows),
            _joined(row.pair for row in rows),
            _joined(row.metric for row in rows),
            _joined(row.intervention for row in rows),
            _joined("all" if row.limit is None else f"{row.limit:g}" for row in rows),
            range_of(row.n for row in rows if row.n is not None),
        )
        for task, rows in by_task.items()
    ]
    return _table("Tasks", ["Task", "Version", "Languages", "Metrics", "Interventions", "Limit"], rows, ["Documents"])


def _joined(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _adapters(sources: Sources) -> Table:
    rows = []
    for folder, training in sources.trainings.items():
        model, data, parameters = (mapping(training.get(key)) for key in ("model", "data", "parameters"))
        accuracy = mapping(mapping(training.get("results")).get("after")).get("accuracy")
        labels = (folder.name, model.get("model"), data.get("name"), "yes" if training.get("finished") else "no")
        rows.append((*labels, parameters.get("trainable"), parameters.get("of_neurons"), accuracy and number(accuracy)))
    columns = ["Trained parameters", "of neurons", "Accuracy after"]
    return _table("Adapters that were trained", ["Adapter", "Model", "Data", "Finished"], rows, columns)


def _versions(sources: Sources) -> Table:
    measured = _measured(sources)
    versions = [(name, _joined(getattr(part, f"{name}_version", None) for part in measured)) for name in _VERSIONS]
    rows = [(name, used) for name, used in versions if used]
    return _table("Versions of the libraries that measured", ["Library", "Version"], rows)
