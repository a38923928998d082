"""A folder of Statistics, language by language: what is there is kept, what was begun goes on, shards are put together.

A folder that is being filled holds, beside what :mod:`lnbench.statistics.store` describes, ``unfinished/{lang}``
(progress) and ``shards/{number}-of-{count}/{lang}`` (shards, finished or not), in files of format
``lnbench.account/1``.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from torch import nn

from lnbench.corpora.documents import TextReport
from lnbench.errors import LnbenchError
from lnbench.files import exclusive_lock
from lnbench.model.architectures import POST
from lnbench.model.describe import describe_model
from lnbench.model.sites import locate
from lnbench.statistics import store
from lnbench.statistics.accumulator import Account
from lnbench.statistics.corpus_statistics import WHOLE, Reading, Shard, count_corpus, finished, request_key
from lnbench.statistics.distributed import rank_of_world, wait_for_all
from lnbench.statistics.language_statistics import Statistics
from lnbench.statistics.layer_accumulator import Activation
from lnbench.statistics.nonlinearity import by_name

log = logging.getLogger(__name__)
_SHARD = re.compile(r"(?P<number>\d+)-of-(?P<count>\d+)")


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
        say: Told of each language that is done.
        options: Of :func:`~lnbench.statistics.corpus_statistics.count_corpus`.

    Raises:
        LnbenchError: another process writes to the folder; and as
            :func:`~lnbench.statistics.corpus_statistics.count_corpus`.
            Finished languages stay, and the same call goes on with the one that was interrupted.
    """
    rank, world = rank_of_world()
    asked = shard
    if world > 1:
        shard = (shard[0] + shard[1] * rank, shard[1] * world)
        options |= {"progress": rank == 0}
    own = folder if shard == WHOLE else _shard_folder(folder, shard)
    described = describe_model(model, tokenizer)
    activations = locate(model).activations
    with ExitStack() as locks:
        for used in {own, folder} if asked == WHOLE and rank == 0 else {own}:
            locks.enter_context(exclusive_lock(used))
        for language, reading in readings.items():
            state = (own / "unfinished" if shard == WHOLE else own) / f"{language}.safetensors"
            for left in state.parent.glob(f".{state.name}.*"):
                left.unlink()  # of a process that was killed as it wrote
            request = request_key(described | reading.provenance(language))
            if _stored(folder, language, request, site if rank == 0 else None):
                say(f"{language}: already in {folder}")
                _clear(state)
                continue
            account = count_corpus(
                model, tokenizer, language, reading, shard=shard, state=state, described=described, **options
            )
            if shard == WHOLE:
                _keep(finished(account, site=site, activations=activations), folder, say)
                _clear(state)
                continue
            say(f"{language}: shard {shard[0] + 1} of {shard[1]}, {account.tokens:,} tokens → {state}")
            if asked == WHOLE:
                wait_for_all()
                if rank == 0:
                    parts = [_shard_folder(folder, (one, world)) for one in range(world)]
                    merge_folders(parts, folder, languages=[language], site=site, activations=activations, say=say)
                wait_for_all()
                state.unlink()
    if asked == WHOLE != shard:
        _clear(own)


def merge_folders(
    folders: Sequence[Path],
    out: Path,
    *,
    languages: Sequence[str] | None = None,
    site: str = POST,
    activations: Sequence[Activation] | None = None,
    say: Callable[[str], None] = log.info,
) -> None:
    """Put shards together: counts, moments and extremes add up exactly, whatever the order.

    Args:
        folders: Folders with ``shards/``, or single shards' folders, from one machine or many.
        out: Statistics folder to write.
        languages: Languages to merge; all if None.
        site: Site shown first.
        activations: The non-linearity of each layer; found by name if None.
        say: Told of each language that is done.

    Raises:
        LnbenchError: no shards, some are missing or unfinished, or they belong to different requests.
    """
    if _SHARD.fullmatch(out.resolve().name):
        raise LnbenchError(
            f"{out} holds a shard, which the merged Statistics would overwrite; choose another with --out"
        )
    found = _shards(folders)
    if languages is not None:
        found = {language: shards for language, shards in found.items() if language in languages}
    if not found:
        raise LnbenchError(
            f"no shards in {', '.join(map(str, folders))}; collect them with lnbench stats --shard 1/2 --out FOLDER"
        )
    for language, shards in sorted(found.items()):
        _check_complete(language, shards)
    for _, shards in sorted(found.items()):
        first, *others = (shards[number] for number in sorted(shards))
        whole = Account.load(first)
        text = TextReport(**whole.about["text"])
        for path in others:
            part = Account.load(path)
            text += TextReport(**part.about["text"])
            whole.merge(part)
        whole.about["text"] = vars(text)
        known = activations if activations is not None else by_name(whole.about["activations"])
        _keep(finished(whole, site=site, activations=known), out, say)


def _keep(statistics: Statistics, folder: Path, say: Callable[[str], None]) -> None:
    path = statistics.save(folder)
    bound = max(float(one.rank_error.max()) for one in statistics.sites.values())
    text = TextReport(**statistics.provenance["text"]).sentence(statistics.language)
    say(f"{text}; {statistics.tokens:,} tokens, quantiles within {bound:.4f} in rank → {path}")


def _stored(folder: Path, language: str, request: str, site: str | None) -> bool:
    """Whether the folder has these very Statistics already; they then show ``site`` first, if one is given."""
    if not (folder / store.MANIFEST).exists() or language not in store.languages(folder):
        return False
    try:
        found = Statistics.load(folder, language)
    except LnbenchError as error:
        log.warning("%s", error)
        return False
    if found.provenance.get("request") != request:
        return False
    if site is not None and found.site != site:
        found.at(site).save(folder)
    return True


def load_shard(
    folder: Path, shard: Shard, language: str, *, site: str = POST, activations: Sequence[Activation]
) -> Statistics:
    """The Statistics of one finished shard by itself.

    Raises:
        LnbenchError: it is missing or damaged.
    """
    account = Account.load(_shard_folder(folder, shard) / f"{language}.safetensors")
    return finished(account, site=site, activations=activations)


def _shard_folder(folder: Path, shard: Shard) -> Path:
    return folder / "shards" / f"{shard[0] + 1}-of-{shard[1]}"


def _clear(path: Path) -> None:
    """Remove progress that is no longer of use, and the folder that held it once that is empty."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # Others are in it, or have just removed it.
        path.parent.rmdir()


def _shards(folders: Sequence[Path]) -> dict[str, dict[int, Path]]:
    """Language → number → file.

    Raises:
        LnbenchError: there are two different files of one shard.
    """
    found: dict[str, dict[int, Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise LnbenchError(f"no such folder: {folder}")
        inside = [folder] if _SHARD.fullmatch(folder.name) else sorted((folder / "shards").glob("*-of-*"))
        for path in (file for one in inside for file in sorted(one.glob("*.safetensors"))):
            number = Account.about_in(path)["shard"][0]
            other = found.setdefault(path.stem, {}).setdefault(number, path)
            if other != path and Account.about_in(other) != Account.about_in(path):
                raise LnbenchError(f"{other} and {path} are both shard {number + 1} of {path.stem}; name one of them")
    return found


def _check_complete(language: str, shards: Mapping[int, Path]) -> None:
    abouts = {number: Account.about_in(path) for number, path in shards.items()}
    first = next(iter(abouts.values()))
    count = first["shard"][1]
    for number, about in abouts.items():
        if (about["request"], about["shard"][1]) != (first["request"], count):
            raise LnbenchError(
                f"{shards[number]} belongs to another request than {next(iter(shards.values()))}: model, corpus, "
                "options and number of shards must be the same"
            )
    missing = [number for number in range(count) if number not in abouts or not abouts[number]["done"]]
    if missing:
        named = ", ".join(f"{number + 1}/{count}" for number in missing)
        raise LnbenchError(f"{language}: shards {named} are missing or unfinished; run lnbench stats --shard for each")
