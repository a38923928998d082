"""What was run: models, neurons, text, tasks, adapters, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lnbench.leaderboard import Row
from lnbench.report.inputs import Sources
from lnbench.report.text import number
from lnbench.report.view import Table

_VERSIONS = ("lnbench", "lm_eval", "transformers", "torch", "datasets")


def overview(sources: Sources) -> list[Table]:
    """A table for each kind of thing that there is."""
    return [table for make in _TABLES for table in make(sources)]


def models(sources: Sources) -> list[str]:
    """The models measured, as they were named."""
    of_sets = [neurons.model for neurons in sources.neurons.values()]
    measured = [row.model for row in sources.shown_rows] + [one.model for one in sources.shown_matrices.values()]
    reproduced = [name for one in sources.reproductions.values() for name in one.models]
    return list(dict.fromkeys(filter(None, map(sources.named, measured or reproduced or of_sets))))


def dates(sources: Sources) -> tuple[str, str] | None:
    """The first and the last day on which something was measured."""
    finished: list[Any] = [*sources.rows, *sources.matrices.values(), *sources.reproductions.values()]
    days = sorted(one.finished_at[:10] for one in finished if one.finished_at)
    return (days[0], days[-1]) if days else None


def _models(sources: Sources) -> Iterator[Table]:
    measured: list[Any] = [*[row for row in sources.shown_rows if not row.failed], *sources.shown_matrices.values()]
    rows = dict.fromkeys(
        (
            one.model,
            one.revision or "–",
            one.dtype or "–",
            one.quantization or "–",
            one.weights or "–",
            one.adapter or "–",
        )
        for one in measured
    )
    if rows:
        columns = ["Model", "Revision", "Type", "Quantisation", "Weights", "Adapter"]
        yield Table("Models, with the fingerprints of their weights", columns, list(rows), labels=6)


def _neurons(sources: Sources) -> Iterator[Table]:
    counts = {name: {one: found.count(one) for one in found} for name, found in sources.neuron_sets.items()}
    for told in sources.told.values():
        if told.selector and told.neurons and not told.control:
            counts.setdefault(sources.named(told.selector) or told.selector, dict(told.neurons))
    languages = list(dict.fromkeys(language for some in counts.values() for language in some))
    if counts:
        rows = [[name, *(_whole(some.get(one)) for one in languages)] for name, some in counts.items()]
        yield Table("Neurons of each language, by selector", ["Selector", *languages], rows)


def _text(sources: Sources) -> Iterator[Table]:
    rows = []
    for manifest in sources.statistics.values():
        for language, about in dict(manifest.get("languages") or {}).items():
            pattern, site = str(about.get("corpus_pattern", "–")), str(about.get("site", "–"))
            rows.append([language, _corpus(pattern), site, _whole(about.get("tokens"))])
    if not rows:
        asked = {
            (_corpus(told.corpus), told.read_site or "–", _whole(told.corpus_tokens))
            for told in sources.told.values()
            if told.corpus and told.read_site
        }
        rows = [["each", *one] for one in sorted(asked)]
    if rows:
        columns = ["Language", "Text", "Site", "Tokens"]
        yield Table("Text that the Statistics were collected from", columns, rows, labels=3)


def _tasks(sources: Sources) -> Iterator[Table]:
    patterns: dict[str, list[Row]] = {}
    for row in sources.shown_rows:
        patterns.setdefault(row.task_pattern, []).append(row)
    rows = [
        [
            pattern,
            ", ".join(dict.fromkeys(str(row.task_version) for row in some if row.task_version is not None)) or "–",
            ", ".join(dict.fromkeys(row.language for row in some)),
            ", ".join(dict.fromkeys(row.metric for row in some if row.metric)) or "–",
            ", ".join(dict.fromkeys(row.intervention for row in some)),
            ", ".join(dict.fromkeys("all" if row.limit is None else f"{row.limit:g}" for row in some)),
            _range([row.n for row in some if row.n is not None]),
        ]
        for pattern, some in patterns.items()
    ]
    if rows:
        columns = ["Task", "Version", "Languages", "Metrics", "Interventions", "Limit", "Documents"]
        yield Table("Tasks", columns, rows, labels=6)


def _adapters(sources: Sources) -> Iterator[Table]:
    rows = []
    for folder, training in sources.trainings.items():
        data, told, after = (_mapping(training.get(key)) for key in ("data", "parameters", "results"))
        accuracy = _mapping(after.get("after")).get("accuracy")
        rows.append(
            [
                folder.name,
                str(_mapping(training.get("model")).get("model") or "–"),
                str(data.get("name") or "–"),
                "yes" if training.get("finished") else "no",
                _whole(told.get("trainable")),
                _whole(told.get("of_neurons")),
                number(accuracy) if isinstance(accuracy, int | float) else "–",
            ]
        )
    if rows:
        columns = ["Adapter", "Model", "Data", "Finished", "Trained parameters", "of neurons", "Accuracy after"]
        yield Table("Adapters that were trained", columns, rows, labels=4)


def _versions(sources: Sources) -> Iterator[Table]:
    measured: list[Any] = [*sources.shown_rows, *sources.shown_matrices.values()]
    used = {name: dict.fromkeys(getattr(one, f"{name}_version", None) for one in measured) for name in _VERSIONS}
    rows = [[name, ", ".join(version for version in some if version)] for name, some in used.items() if any(some)]
    if rows:
        yield Table("Versions of the libraries that measured", ["Library", "Version"], rows, labels=2)


def _corpus(pattern: str | None) -> str:
    """The text of a corpus without the machine's folders."""
    from lnbench.demo import CORPUS

    return "embedded text" if pattern in (None, CORPUS) else pattern


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return "–"
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _whole(count: Any) -> str:
    return f"{count:,}" if isinstance(count, int) else "–"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


_TABLES: tuple[Callable[[Sources], Iterator[Table]], ...] = (_models, _neurons, _text, _tasks, _adapters, _versions)
