"""One fine-tuning, from a request to an adapter in a folder: done once, resumed after an interruption."""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from lnbench import content_hash, estimates
from lnbench.demo import CORPUS
from lnbench.errors import LnbenchError, plugin_call
from lnbench.estimates import LoadedAs, ModelSize, Room, Work
from lnbench.files import fingerprint, read_json
from lnbench.finetuning import training_record as record
from lnbench.finetuning.presets import TrainingSettings, preset_of, settings_of
from lnbench.host import get_host
from lnbench.locks import exclusive_lock
from lnbench.model.packaged import content_of
from lnbench.model.self_check import SELF_CHECK
from lnbench.parameters import parameters_of
from lnbench.settings import (
    IncludePath,
    ModelArgs,
    NeuronSource,
    OutFolder,
    Pairs,
    Quantize,
    Selector,
    StatisticsSource,
    given,
)
from lnbench.task_files import content_of_data

if TYPE_CHECKING:
    from lnbench.lm import LNBenchLM
    from lnbench.neurons import NeuronSet

QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "nf4": {
        "dtype": "bfloat16",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    },
}
"""Choices of ``quantize``, and the model arguments that each sets."""
_ADDED = ("corpus_tokens", "corpus_length", "site", "text_column", "on_bad_line", "max_foreign")
"""Fields that a request names only where they are not at their default, as they came after the others."""


class FinetuneJob(ModelArgs, NeuronSource):
    """A request for an adapter. :meth:`run` can be repeated: a finished adapter is not trained again.

    Raises:
        LnbenchError: an unknown field, name or setting, or a value that does not fit.
    """

    subject = "fine-tuning: "

    finetuner: str = Field(description="name or name:key=value, e.g. masked_lora:rank=16")
    out: OutFolder = Field(description="folder of the adapter")
    quantize: Quantize = "none"
    selector: Selector | None = Field(  # type: ignore[assignment]
        default=None, description="in place of a file: name or name:key=value, run on statistics or corpus"
    )
    languages: str | None = Field(default=None, description="whose neurons train: en, en+hi, random, all or none")
    other_model: bool = Field(
        default=False, description="take neurons of a model of another name: a copy of this one, or close to it"
    )
    data: str | None = Field(
        default=None,
        description="xnli, xquad, xquad_pair, xquad_pair_english, squad, or an lm-eval task with a training split; the "
        "preset's by default, else xnli",
    )
    include_path: IncludePath = None
    preset: str | None = Field(default=None, description="xnli-paper, xquad-paper or sse-paper")
    settings: Pairs = Field(default={}, description="a training setting in place of the preset's, lr=0.0002")

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneJob:
        if self.neurons is not None and self.selector is not None:
            raise LnbenchError("pass neurons or a selector, not both")
        if "peft" in self.model_args:
            raise LnbenchError("an adapter is trained on its base model: leave peft= out of the model arguments")
        settings_of(self.preset, self.settings)
        get_host().resolve("finetuner", self.choice)
        return self

    @property
    def training(self) -> TrainingSettings:
        """The preset's settings, with those that were given in their place."""
        return settings_of(self.preset, self.settings)

    @property
    def rows(self) -> str:
        """The data that was given, else the preset's."""
        return self.data or preset_of(self.preset).data

    @property
    def model_arguments(self) -> dict[str, Any]:
        """All arguments of the model: of its quantisation, and those given."""
        return QUANTIZATIONS[self.quantize] | self.model_args

    @property
    def choice(self) -> str:
        """The fine-tuner in full: what was given, the languages, and what the preset adds.

        Raises:
            LnbenchError: unknown fine-tuner, or one that takes no languages though they are given.
        """
        name = self.finetuner.partition(":")[0]
        known = parameters_of(get_host().factory("finetuner", name))
        if self.languages is not None and "languages" not in known:
            raise LnbenchError(f"fine-tuner {name!r} trains the same whatever the languages: leave languages out")
        added = {"languages": self.languages} if self.languages is not None else {}
        for key, value in preset_of(self.preset).adapter.items():
            if key in known and f":{key}=" not in self.finetuner:
                added[key] = value
        return self.finetuner + "".join(f":{key}={value}" for key, value in added.items())

    def request(self) -> dict[str, Any]:
        """All that decides what the adapter becomes, as JSON data; files by what they hold.

        Raises:
            LnbenchError: a file or a folder cannot be read.
        """
        from lnbench.finetuning.training_rows import files_of
        from lnbench.neurons import NeuronSet
        from lnbench.statistics.store import MANIFEST

        return {
            "finetuner": get_host().canonical("finetuner", self.choice),
            "model": self.model,
            "model_content": content_of(self.model),
            "model_args": self.model_arguments,
            "neurons": NeuronSet.load(self.neurons).fingerprint if self.neurons else None,
            "selector": get_host().canonical("selector", self.selector) if self.selector else None,
            "statistics": fingerprint(read_json(Path(self.statistics, MANIFEST))) if self.statistics else None,
            "corpus": None if self.corpus == CORPUS else self.corpus,
            **{name: value for name, value in given(self, StatisticsSource).items() if name in _ADDED},
            "data": self.rows,
            "data_files": {path.name: content_hash.of_file(str(path)) for path in files_of(self.rows)},
            "include_path": content_hash.of_folder(str(self.include_path)) if self.include_path else None,
            **self._content_beside(),
            "preset": self.preset,
            "settings": self.training.model_dump(mode="json"),
        }

    def _content_beside(self) -> dict[str, Any]:
        """Return what other inputs hold that are known by a name, where there are any: text, tasks' data, folders."""
        from lnbench.corpora.corpus import fingerprint as text_fingerprint
        from lnbench.corpora.patterns import choose_languages, expand, is_hub

        held: dict[str, Any] = {}
        if beside := content_hash.of_settings(self.model_args, self.model):
            held["model_args_content"] = beside
        if self.include_path and (data := content_of_data(str(self.include_path))):
            held["include_path_data"] = [list(pair) for pair in data]
        if self.selector and not self.statistics and self.corpus != CORPUS and not is_hub(expand(self.corpus)):
            languages = choose_languages(self.corpus)
            texts = {language: text_fingerprint(self.corpus, language, self.text_column) for language in languages}
            held["corpus_content"] = texts
        return held

    @property
    def key(self) -> str:
        """A fingerprint of :meth:`request`."""
        return fingerprint(self.request())

    def run(self, *, wait: bool = False) -> Path:
        """Train, or resume an interrupted training, or return what is finished.

        Args:
            wait: For another process that trains in the same folder, in place of an error.

        Returns:
            The adapter's folder, for ``peft=`` (and ``head=``) in model arguments.

        Raises:
            LnbenchError: another request's training is in the folder, another process is at it, or anything that
                training raises.
        """
        content_hash.forget()
        request = self.request()
        # Names with a dot are the lock, and files that another process is about to rename.
        if next(self.out.glob("[!.]*"), None) and record.read(self.out) is None:
            raise LnbenchError(f"{self.out} is not empty and holds no training: choose another folder for the adapter")
        with exclusive_lock(self.out, wait=wait):
            before = record.read(self.out)
            if before is None or "data" not in before:  # what failed before it had its data has trained nothing
                record.update(self.out, finished=False, request=request)
            elif changes := record.differences(before.get("request"), request):
                raise LnbenchError(
                    f"{self.out} holds the training of another request ({'; '.join(changes)}): choose another folder, "
                    "or delete this one"
                )
            elif before.get("finished"):
                return self.out / str(before["adapter"])
            adapter = self._train()
            record.update(self.out, finished=True, adapter=os.path.relpath(adapter, self.out))
            for folder in self.out.glob(record.CHECKPOINTS):
                shutil.rmtree(folder, ignore_errors=True)
        return adapter

    def _train(self) -> Path:
        from transformers import set_seed

        from lnbench.corpora.corpus import check_texts
        from lnbench.corpora.patterns import choose_languages
        from lnbench.finetuning.data import prepare
        from lnbench.finetuning.training import keep_trainable, work_of
        from lnbench.lm import LNBenchLM

        finetuner = get_host().resolve("finetuner", self.choice)
        if self.selector and not self.statistics:
            check_texts(self.corpus, choose_languages(self.corpus), **self.reading_options)
        if (size := estimates.size_of(self.model, self.model_arguments)) is not None:
            loading = LoadedAs.of(self.model_arguments)
            estimates.fit(size, loading, self._least_work(finetuner, size), Room.here(loading.device), self.out)
        lm = LNBenchLM(self.model, **self.model_arguments)
        keep_trainable(lm.model)  # before Statistics are collected, if they are
        neurons = self._neurons(lm)
        if callable(check := getattr(finetuner, "check", None)):
            with plugin_call("finetuner", self.finetuner):
                check(lm.model, neurons)
        data = prepare(self.rows, lm, self.training, include_path=self.include_path)
        estimates.announce(lm.model, work_of(data), self.model_arguments)
        made_from = {"model": lm.described, "data": data.account}
        before = {name: part for name, part in (record.read(self.out) or {}).items() if name in made_from}
        if before and (changes := record.differences(before, made_from)):
            raise LnbenchError(
                f"cannot resume in {self.out}: its inputs changed since it started ({'; '.join(changes)}); restore "
                "them, or delete the folder to start over"
            )
        checked = {SELF_CHECK: lm.sites.check.summary()}
        record.update(self.out, **made_from, **checked, neurons=neurons.fingerprint if neurons else None)
        set_seed(self.training.seed)
        with plugin_call("finetuner", self.finetuner):
            return self._adapter(finetuner.train(lm.model, lm.tokenizer, neurons, data, self.out))

    def _least_work(self, finetuner: Any, size: ModelSize) -> Work:
        """Return what one step takes, as far as it is known before there is a model or data."""
        settings = self.training
        # Of query, key, value and output projection, each from and to hidden features.
        rank = int(getattr(finetuner, "rank", 0))
        return Work(
            f"fine-tuning {Path(self.model).name}",
            trained=settings.max_length,
            length=settings.max_length,
            parameters=8 * rank * size.hidden * size.layers,
            checkpointing=settings.gradient_checkpointing,
        )

    def _adapter(self, folder: object) -> Path:
        """Return the folder that a fine-tuner returned, if an adapter can be loaded from it."""
        if not isinstance(folder, str | os.PathLike):
            raise LnbenchError(f"returned {type(folder).__name__}, not the folder of an adapter")
        path = Path(folder)
        if not path.resolve().is_relative_to(self.out.resolve()):
            raise LnbenchError(f"returned {path}, which is not in the folder of this training, {self.out}")
        if not path.is_dir():
            state = "is a file" if path.exists() else "does not exist"
            raise LnbenchError(f"returned {path} for its adapter, which {state}")
        files = [file for file in path.rglob("*") if file.is_file() and not self._is_ours(file)]
        if not any(file.stat().st_size for file in files):
            raise LnbenchError(f"returned {path} for its adapter, which holds no file with content")
        return path

    def _is_ours(self, file: Path) -> bool:
        """Return whether a file in the folder is about the training, and no part of what came out."""
        first = file.relative_to(self.out).parts[0] if file.is_relative_to(self.out) else ""
        return first.startswith(".") or first == record.FILE or fnmatch(first, record.CHECKPOINTS)

    def _neurons(self, lm: LNBenchLM) -> NeuronSet | None:
        from lnbench.lm.experiment import Experiment
        from lnbench.statistics.store import MANIFEST

        if self.neurons is None and self.selector is None:
            return None
        source = {name: value for name, value in given(self, NeuronSource).items() if value is not None}
        neurons = lm.artifacts.neurons(Experiment(**source))
        # A model is known by its name without the folder, or by the weights that Statistics were made with.
        names = {Path(name).name.casefold() for name in (neurons.model, lm.described["model"])}
        selected_in = read_json(Path(self.statistics, MANIFEST)) if self.selector and self.statistics else {}
        if not (self.other_model or len(names) == 1 or selected_in.get("weights") == lm.described["weights"]):
            raise LnbenchError(
                f"these neurons were found in {neurons.model}, not in {lm.described['model']}: choose neurons of this "
                "model; if it is a copy of that one, or close to it, say so with --other-model (other_model=True)"
            )
        return neurons
