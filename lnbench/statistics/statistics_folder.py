"""A folder of Statistics, language by language: finished ones are kept, started ones continued, shards merged.

A folder that is being filled holds, beside what :mod:`lnbench.statistics.store` describes, ``unfinished/{lang}``
(progress) and ``shards/{number}-of-{count}/{lang}`` (shards, finished or not), in files of format
``lnbench.account/1``.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed
from torch import nn

from lnbench.corpora.documents import TextReport
from lnbench.errors import LnbenchError
from lnbench.interruption import reached
from lnbench.locks import exclusive_lock
from lnbench.model.architectures import NEURON_SITES, POST
from lnbench.model.describe import describe_model
from lnbench.model.locate import locate
from lnbench.statistics import store
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.corpus_statistics import WHOLE, Reading, Shard, count_corpus, finished, request_key
from lnbench.statistics.language_statistics import Statistics
from lnbench.statistics.layer_accumulator import Activation
from lnbench.statistics.nonlinearity import by_name

log = logging.getLogger(__name__)
_SHARD = re.compile(r"(?P<number>\d+)-of-(?P<count>\d+)")
_PATIENCE = timedelta(weeks=52)
"""Some processes may have hours to go when others are done: after an interruption they start from different places."""


def collect_folder(
    model: nn.Module,
    tokenizer: Any,
    folder: Path,
    readings: Mapping[str, Reading],
    *,
    shard: Shard = WHOLE,
    site: str = POST,
    say: Callable[[str], None] = log.info,
    **options: Any,
) -> None:
    """Fill a Statistics folder. Started by ``torchrun`` or ``accelerate launch``, the processes share each language.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        folder: Where the Statistics go.
        readings: Language → which tokens are counted.
        shard: ``(index, count)``: count only so much of each language, for :func:`merge_folders`.
        site: Site shown first.
        say: Called with a line on each finished language.
        options: Of :func:`~lnbench.statistics.corpus_statistics.count_corpus`.

    Raises:
        LnbenchError: another process writes to the folder; and as
            :func:`~lnbench.statistics.corpus_statistics.count_corpus`.
            Finished languages stay, and the same call continues with the one that was interrupted.
    """
    rank, world = _rank_of_world()
    is_whole = shard == WHOLE
    if world > 1:
        shard = (shard[0] + shard[1] * rank, shard[1] * world)
        options |= {"progress": rank == 0}
    own = folder if shard == WHOLE else shard_folder(folder, shard)
    described = describe_model(model, tokenizer)
    activations = locate(model).activations
    with ExitStack() as locks:
        for used in {own, folder} if is_whole and rank == 0 else {own}:
            locks.enter_context(exclusive_lock(used))
        for language, reading in readings.items():
            state = (own / "unfinished" if shard == WHOLE else own) / f"{language}.safetensors"
            reading, stored = with_stored_sites(folder, language, reading, described)
            if stored is not None:
                if rank == 0 and stored.site != site:
                    stored.at(site).save(folder)
                say(f"{language}: already in {folder}")
                remove_progress(state)
                continue
            counts = count_corpus(
                model, tokenizer, language, reading, shard=shard, state=state, described=described, **options
            )
            if shard == WHOLE:
                _save(finished(counts, site=site, activations=activations), folder, say)
                remove_progress(state)
                continue
            say(f"{language}: shard {shard[0] + 1} of {shard[1]}, {counts.tokens:,} tokens → {state}")
            if is_whole:
                torch.distributed.barrier()
                if rank == 0:
                    shards = [shard_folder(folder, (index, world)) for index in range(world)]
                    merge_folders(shards, folder, languages=[language], site=site, activations=activations, say=say)
                torch.distributed.barrier()
                state.unlink()
    if is_whole and shard != WHOLE:
        remove_progress(own)


def merge_folders(
    folders: Sequence[Path],
    out: Path,
    *,
    languages: Sequence[str] | None = None,
    site: str = POST,
    activations: Sequence[Activation] | None = None,
    say: Callable[[str], None] = log.info,
) -> None:
    """Merge shards: counts, moments and extremes add up exactly, whatever the order.

    Args:
        folders: Folders with ``shards/``, or single shards' folders, from one machine or many.
        out: Statistics folder to write.
        languages: Languages to merge; all if None.
        site: Site shown first.
        activations: The non-linearity of each layer; found by name if None.
        say: Called with a line on each finished language.

    Raises:
        LnbenchError: no shards, some are missing or unfinished, or they were collected with different settings.
    """
    if _SHARD.fullmatch(out.resolve().name):
        raise LnbenchError(
            f"{out} holds a shard, which the merged Statistics would overwrite; choose another with --out"
        )
    shards = _shards(folders)
    if languages is not None:
        shards = {language: files for language, files in shards.items() if language in languages}
    if not shards:
        raise LnbenchError(
            f"no shards in {', '.join(map(str, folders))}; collect them with lnbench stats --shard 1/2 --out FOLDER"
        )
    for language, files in sorted(shards.items()):
        _check_complete(language, files)
    for _, files in sorted(shards.items()):
        first, *others = (files[number] for number in sorted(files))
        whole = Accumulator.load(first)
        text = TextReport(**whole.about["text"])
        for path in others:
            part = Accumulator.load(path)
            text += TextReport(**part.about["text"])
            whole.merge(part)
        whole.about["text"] = vars(text)
        of_layers = activations if activations is not None else by_name(whole.about["activations"])
        _save(finished(whole, site=site, activations=of_layers), out, say)


def load_shard(
    folder: Path, shard: Shard, language: str, *, site: str = POST, activations: Sequence[Activation]
) -> Statistics:
    """Return the Statistics of one finished shard by itself.

    Raises:
        LnbenchError: it is missing or damaged.
    """
    counts = Accumulator.load(shard_folder(folder, shard) / f"{language}.safetensors")
    return finished(counts, site=site, activations=activations)


def _rank_of_world() -> tuple[int, int]:
    """Return this process's number, from 0, and how many were started together; ``(0, 1)`` for one by itself."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    if not torch.distributed.is_initialized():
        # On GPUs accelerate has done this when the model was loaded.
        torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    return int(os.environ.get("RANK", "0")), world


def _save(statistics: Statistics, folder: Path, say: Callable[[str], None]) -> None:
    path = statistics.save(folder)
    bound = max(float(values.rank_error.nan_to_num(0).max()) for values in statistics.sites.values())
    text = TextReport(**statistics.provenance["text"]).sentence(statistics.language)
    reached(f"{statistics.language}, which is finished")
    say(f"{text}; {statistics.tokens:,} tokens, quantiles within {bound:.4f} in rank → {path}")


def with_stored_sites(
    folder: Path, language: str, reading: Reading, described: Mapping[str, Any]
) -> tuple[Reading, Statistics | None]:
    """Return how a language is read so that no site that the folder has of it is lost; and its Statistics, if whole."""
    if not (folder / store.MANIFEST).exists() or language not in store.languages(folder):
        return reading, None
    try:
        statistics = Statistics.load(folder, language)
    except LnbenchError as error:
        log.warning("%s", error)
        return reading, None
    as_stored = reading.model_copy(update={"sites": tuple(statistics.provenance.get("sites", ()))})
    if statistics.provenance.get("request") != request_key({**described, **as_stored.provenance(language)}):
        return reading, None
    has_all = set(reading.sites) <= {*NEURON_SITES, *as_stored.sites}
    wider = reading.model_copy(update={"sites": (*reading.sites, *as_stored.sites)})
    return wider, statistics if has_all else None


def shard_folder(folder: Path, shard: Shard) -> Path:
    """Return where a folder keeps one shard of its languages."""
    return folder / "shards" / f"{shard[0] + 1}-of-{shard[1]}"


def remove_progress(path: Path) -> None:
    """Remove progress that is no longer of use, and the folder that held it once that is empty."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # Others are in it, or have just removed it.
        path.parent.rmdir()


def _shards(folders: Sequence[Path]) -> dict[str, dict[int, Path]]:
    """Return language → number → file.

    Raises:
        LnbenchError: there are two different files of one shard.
    """
    shards: dict[str, dict[int, Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise LnbenchError(f"no such folder: {folder}")
        pattern = "*.safetensors" if _SHARD.fullmatch(folder.name) else "shards/*-of-*/*.safetensors"
        for path in sorted(folder.glob(pattern)):
            number = Accumulator.about_in(path)["shard"][0]
            other = shards.setdefault(path.stem, {}).setdefault(number, path)
            if other != path and Accumulator.about_in(other) != Accumulator.about_in(path):
                raise LnbenchError(f"{other} and {path} are both shard {number + 1} of {path.stem}; name one of them")
    return shards


def _check_complete(language: str, shards: Mapping[int, Path]) -> None:
    abouts = {number: Accumulator.about_in(path) for number, path in shards.items()}
    first, *_ = abouts
    expected = _settings(abouts[first])
    for number, about in abouts.items():
        if about["request"] != abouts[first]["request"] or about["shard"][1] != expected["shards"]:
            settings = _settings(about)
            differing = [name for name in expected | settings if settings.get(name) != expected.get(name)]
            raise LnbenchError(
                f"{shards[first]} and {shards[number]} were collected with different settings (differing: "
                f"{', '.join(differing)}) and cannot be merged"
            )
    count = expected["shards"]
    missing = [number for number in range(count) if number not in abouts or not abouts[number]["done"]]
    if missing:
        named = ", ".join(f"{number + 1}/{count}" for number in missing)
        raise LnbenchError(f"{language}: shards {named} are missing or unfinished; run lnbench stats --shard for each")


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    return {**about["provenance"], "shards": about["shard"][1]}
