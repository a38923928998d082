"""Every touch of lm-eval's insides, in one place: each patch names the upstream behaviour that it changes.

Written against lm-eval 0.4.13. :func:`apply` is called when :mod:`lnbench.lm` is imported, and works once.
"""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any

from lm_eval import evaluator
from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM, hash_args
from lm_eval.api.task import Task
from lm_eval.loggers import EvaluationTracker
from lm_eval.loggers import utils as loggers
from lm_eval.models import huggingface
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind
from lm_eval.utils import sanitize_model_name
from sqlitedict import SqliteDict
from torch.utils import collect_env
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
)

from lnbench.errors import LnbenchError, one_line_error, show_deprecations
from lnbench.files import fingerprint, tasks_dir
from lnbench.model.describe import note_commit
from lnbench.progress import Bar
from lnbench.special_tokens import padding_of
from lnbench.task_languages import DATASET_MARK, MARK, TAGS_MARK

__all__ = [
    "PatchedHFLM",
    "apply",
    "hash_args",
    "is_single_task",
    "keep_requests",
    "our_tasks_included",
    "readable",
    "silence",
]
_BITSANDBYTES = ("load_in_4bit", "load_in_8bit", "bnb_4bit_", "llm_int8_")


@functools.cache
def apply() -> None:
    """Apply the patches that hold for the whole process."""
    show_deprecations()
    # Upstream, a model is given requests alone, which do not say what language their task is in.
    Task.build_all_requests = _mark_requests(Task.build_all_requests)
    # Upstream says nothing of what a model did.
    evaluator.evaluate = _telling(evaluator.evaluate)
    # Upstream averages a group over its tasks, whatever groups of tasks lie between them.
    Group.aggregate = _averaging_groups(Group.aggregate)
    # Upstream opens a damaged file of --use_cache with sqlite's words, in a traceback.
    CachingLM.__init__ = _checked(CachingLM.__init__)
    # Upstream asks pip, the hardware and git at every invocation, though none of them changes between cells.
    collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)
    # It also lets git say on stderr that the folder is no repository.
    evaluator.get_git_commit_hash = functools.cache(_without_stderr(loggers.get_git_commit_hash))
    # Upstream repeats lines of its bars where there is no terminal.
    huggingface.tqdm = Bar
    # Upstream warns, of every task that makes its rows itself, that --metadata reaches them: ours need none.
    logging.getLogger("lm_eval.api.task").addFilter(lambda record: not _needless(record.getMessage()))


def _without_stderr(call: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that calls ``call`` while neither this process nor what it starts can write to stderr."""

    def quietly() -> Any:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            return call()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)

    return quietly


def _needless(message: str) -> bool:
    return message.startswith("lnbench_") and "Custom kwargs can be passed" in message


def _telling(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(evaluate)
    def evaluate_and_tell(lm: Any, *args: Any, **options: Any) -> Any:
        results = evaluate(lm, *args, **options)
        if hasattr(lm, "overridden"):
            for line in lm.overridden():
                print(line, file=sys.stderr, flush=True)
        return results

    return evaluate_and_tell


def _mark_requests(build: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(build)
    def build_all_requests(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = build(self, *args, **kwargs)
        metadata = getattr(self.config, "metadata", None)
        language = metadata.get("language") if isinstance(metadata, dict) else None
        for instance in self.instances:
            setattr(instance, MARK, language)
            setattr(instance, DATASET_MARK, self.config.dataset_name)
            setattr(instance, TAGS_MARK, self.config.tag)
        return result

    return build_all_requests


def _averaging_groups(aggregate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(aggregate)
    def aggregate_groups(self: Any, task_metrics: Any) -> Any:
        result = aggregate(self, task_metrics)
        if (self.metadata or {}).get("average_of") != "groups":
            return result
        # Groups are averaged from the inside out, so that those in this one are done.
        members = [task_metrics[name] for name in self.child_names]
        for key in [key for key in result if "," in key and "_stderr," not in key]:
            values = [member[key] for member in members if key in member]
            result[key] = sum(values) / len(values)
            result[key.replace(",", "_stderr,", 1)] = "N/A"
        return result

    return aggregate_groups


def _checked(construct: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(construct)
    def construct_checked(self: Any, lm: Any, cache_db: str) -> None:
        with readable(cache_db) if isinstance(lm, PatchedHFLM) else nullcontext():
            construct(self, lm, cache_db)

    return construct_checked


@contextmanager
def our_tasks_included() -> Iterator[None]:
    """Let every TaskManager find our tasks: upstream's takes several folders, but its command line passes only one."""
    construct = TaskManager.__init__

    @functools.wraps(construct)
    def with_our_tasks(self: Any, *args: Any, include_path: Any = None, **options: Any) -> None:
        theirs = [] if include_path is None else include_path
        theirs = [theirs] if isinstance(theirs, str | Path) else [*theirs]
        # A later folder's tasks replace an earlier one's: the user's replace ours.
        construct(self, *args, include_path=[tasks_dir(), *theirs], **options)

    TaskManager.__init__ = with_our_tasks
    try:
        yield
    finally:
        TaskManager.__init__ = construct


class PatchedHFLM(HFLM):  # type: ignore[misc]
    """lm-eval's ``hf``, where it fails for reasons of its own."""

    batch_schedule: float
    AUTO_MODEL_CLASS: Any
    _model: Any

    def _batch_scheduler(self, pos: int, n_reordered_requests: Sequence[Any]) -> int:
        # Upstream divides by zero where there are fewer requests than batch sizes to try.
        steps = self.batch_schedule
        self.batch_schedule = min(steps, len(n_reordered_requests))
        try:
            return int(super()._batch_scheduler(pos, n_reordered_requests))
        finally:
            self.batch_schedule = steps

    def _get_backend(self, config: Any, *args: Any, **options: Any) -> None:
        # Upstream reads text with causal LMs alone; image-text models that are not filed there read text as well.
        super()._get_backend(config, *args, **options)
        kind = type(config)
        if (
            self.AUTO_MODEL_CLASS is AutoModelForCausalLM
            and kind not in MODEL_FOR_CAUSAL_LM_MAPPING
            and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        ):
            self.AUTO_MODEL_CLASS = AutoModelForImageTextToText

    def _create_model(self, *args: Any, **options: Any) -> None:
        # Upstream hands quantisation arguments on one by one, which transformers no longer takes.
        quantization = {name: options.pop(name) for name in list(options) if name.startswith(_BITSANDBYTES)}
        if quantization.get("load_in_4bit") or quantization.get("load_in_8bit"):
            options["quantization_config"] = BitsAndBytesConfig(**quantization)
        peft, delta = options.pop("peft", None), options.get("delta")
        if peft and delta:
            raise LnbenchError("peft= and delta= cannot be used together")
        super()._create_model(*args, **options)
        note_commit(self._model, options.get("revision"))
        if peft:
            self._model = _with_adapter(self._model, peft)

    def _create_tokenizer(self, *args: Any, **options: Any) -> None:
        # Upstream pads with a new token where a tokenizer has none, whose id no model has an embedding for.
        super()._create_tokenizer(*args, **options)
        vocabulary = self.config.get_text_config().vocab_size
        if self.tokenizer.pad_token_id is None and self.tokenizer.unk_token_id is not None:
            self.tokenizer.pad_token_id = self.tokenizer.unk_token_id
        if self.tokenizer.pad_token_id is None or self.tokenizer.pad_token_id >= vocabulary:
            self.tokenizer.pad_token_id = padding_of(self.tokenizer, vocabulary)


def _with_adapter(model: Any, adapter: str) -> Any:
    """Load a PEFT adapter, of the hub as ``name`` or ``name@revision``, on a model as it is.

    Upstream first resizes the embeddings to the tokenizer's size, and takes the model's revision for the adapter too.

    Raises:
        LnbenchError: the adapter holds embeddings of another size.
    """
    from peft import PeftModel

    name, revision = (adapter, "") if Path(adapter).exists() else adapter.partition("@")[::2]
    try:
        return PeftModel.from_pretrained(model, name, revision=revision or None)
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        rows = model.get_input_embeddings().weight.shape[0]
        raise LnbenchError(
            f"the adapter {adapter} does not fit this model, whose embeddings have {rows} rows "
            f"({' '.join(str(error).split())[:300]}): if it was trained with added tokens, resize the base model's "
            "embeddings, save that model, and pass it as pretrained"
        ) from error


def is_single_task(entry: Any) -> bool:
    """Return whether an entry of a TaskManager's index is one task; upstream has no public way to ask."""
    return entry.kind in (Kind.TASK, Kind.PY_TASK)


def keep_requests(task: Task) -> None:
    """Make ``task`` build its prompts once per set of options; upstream builds them again at every invocation."""
    build = task.build_all_requests
    kept: dict[str, list[Instance]] = {}

    @functools.wraps(build)
    def build_all_requests(**options: Any) -> None:
        settings = {name: str(value) for name, value in options.items() if not callable(value)}
        drawing = task.fewshot_rnd.getstate() if task.fewshot_rnd is not None else None
        key = fingerprint([settings, task.config.num_fewshot, drawing])
        if key not in kept:
            build(**options)
            kept[key] = task.instances
        task._instances = [_blank(instance) for instance in kept[key]]  # noqa: SLF001 - upstream has no public way

    task.build_all_requests = build_all_requests


def _blank(instance: Instance) -> Instance:
    """Copy a request without its answers."""
    fresh = copy(instance)
    fresh.resps, fresh.filtered_resps = [], {}
    return fresh


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn what sqlite and JSON raise on a damaged file of answers into one sentence.

    Raises:
        LnbenchError: the file is no file of answers, or is damaged.
    """
    try:
        yield
    except LnbenchError:
        raise
    except (sqlite3.Error, OSError, RuntimeError, ValueError) as error:
        raise LnbenchError(
            f"--use_cache: {path} cannot be used as a file of answers ({one_line_error(error)}): delete it, or name "
            "another file"
        ) from error


class _Silent(SqliteDict):  # type: ignore[misc]
    """lm-eval's own table of answers, made to hold nothing, so that every request reaches the model's keyed answers."""

    def __contains__(self, key: object) -> bool:
        return False

    def __setitem__(self, key: object, value: object) -> None:
        return


def silence(store: SqliteDict) -> None:
    """Empty lm-eval's ``--use_cache``: upstream keys an answer by its request alone, whatever the intervention."""
    store.__class__ = _Silent


def name_folder(tracker: EvaluationTracker, name: str) -> None:
    """Let lm-eval write its files into a folder called by the model's name, not by the path to its weights."""
    if name:
        tracker.general_config_tracker.model_name_sanitized = sanitize_model_name(name)
