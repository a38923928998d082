"""Two halves of each language's text, each every other document, counted further and further, then added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lnbench.files import fingerprint
from lnbench.locks import exclusive_lock
from lnbench.model.describe import describe_model
from lnbench.model.locate import locate
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.corpus_statistics import Reading, count_corpus, finished, request_key
from lnbench.statistics.language_statistics import Statistics
from lnbench.statistics.statistics_folder import merge_folders, remove_progress, shard_folder, with_stored_sites

_BOTH = ((0, 2), (1, 2))


@dataclass
class Halves:
    """The halves of all languages in one Statistics folder, as shards 1 and 2 of 2."""

    model: nn.Module
    tokenizer: Any
    folder: Path
    readings: Mapping[str, Reading]
    site: str
    options: Mapping[str, Any]
    described: dict[str, Any]

    @classmethod
    @contextmanager
    def locked(
        cls, model: nn.Module, tokenizer: Any, folder: Path, readings: Mapping[str, Reading], **parts: Any
    ) -> Iterator[Halves]:
        """Hold the folder against other processes.

        Raises:
            LnbenchError: another process writes to it.
        """
        with exclusive_lock(folder):
            yield cls(model, tokenizer, folder, readings, described=describe_model(model, tokenizer), **parts)

    @property
    def request(self) -> str:
        """A fingerprint of the model, the text and what was asked for, over all languages."""
        return fingerprint({language: self._request(language) for language in self.readings})

    def finished(self) -> bool:
        """Return whether the folder has the Statistics of all languages already."""
        return all(map(self._is_stored, self.readings))

    def count_to(self, tokens: int) -> bool:
        """Count each language's halves to ``tokens`` together; return whether there is no more text in any of them."""
        ended = []
        for language, reading in self.readings.items():
            for half in _BOTH:
                counts = count_corpus(
                    self.model,
                    self.tokenizer,
                    language,
                    reading,
                    shard=half,
                    state=self._state(half, language),
                    described=self.described,
                    pause_at=tokens // 2,
                    **self.options,
                )
                ended.append(counts.about["done"])
        return all(ended)

    def statistics(self) -> tuple[dict[str, Statistics], dict[str, Statistics]]:
        """Return language → Statistics of each half, as far as it was counted."""
        activations = locate(self.model).activations
        first, second = (
            {
                language: finished(
                    Accumulator.load(self._state(half, language)), site=self.site, activations=activations
                )
                for language in self.readings
            }
            for half in _BOTH
        )
        return first, second

    def merge(self, stopped: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """Add the halves up in the folder, with why reading stopped in the provenance."""
        activations = locate(self.model).activations
        for language in self.readings:
            if self._is_stored(language):
                continue
            for half in _BOTH:
                counts = Accumulator.load(self._state(half, language))
                counts.about |= {"done": True, "stopped": dict(stopped)}
                counts.save(self._state(half, language))
            shards = [shard_folder(self.folder, half) for half in _BOTH]
            merge_folders(shards, self.folder, languages=[language], site=self.site, activations=activations, say=say)
        for half in _BOTH:
            for language in self.readings:
                remove_progress(self._state(half, language))

    def _state(self, half: tuple[int, int], language: str) -> Path:
        return shard_folder(self.folder, half) / f"{language}.safetensors"

    def _is_stored(self, language: str) -> bool:
        return with_stored_sites(self.folder, language, self.readings[language], self.described)[1] is not None

    def _request(self, language: str) -> str:
        return request_key(self.described | self.readings[language].provenance(language))
