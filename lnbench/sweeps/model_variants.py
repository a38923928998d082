"""Models and adapters of a spec: what cells are run on, and the fine-tunings that make some of them first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lnbench import content_hash
from lnbench.errors import LnbenchError
from lnbench.finetuning.job import FinetuneJob
from lnbench.formats import slug
from lnbench.lm.arguments import option_words, shell_line
from lnbench.model.packaged import content_of, is_folder
from lnbench.sweeps.cells import Loading
from lnbench.sweeps.spec import AdapterSpec, ModelSpec, Sweep

HEAD = "head.safetensors"
"""A classification head, in an adapter's folder."""
FINETUNED = "finetune"
"""The folder of a run that holds the adapters that it trains."""
_ADAPTER_FILES = ("adapter_config.json", "adapter_model*", "new_embeddings*", HEAD)


@dataclass(frozen=True)
class Training:
    """A fine-tuning, and the loading that its adapter completes."""

    job: FinetuneJob
    loading: Loading

    @property
    def command(self) -> str:
        """The shell command that trains the adapter by hand."""
        return shell_line(["lnbench", "finetune", self.job.finetuner, *option_words(self.job, ["finetuner"])])

    def finished(self, adapter: Path) -> Loading:
        """Return what cells load once the adapter is there."""
        head = str(adapter) if self.loading.head else None
        return replace(self.loading, adapter=str(adapter), head=head)


def loadings(spec: Sweep, out: Path) -> list[Loading | Training]:
    """Return what cells are run on, in order: each model as it is, with each adapter, and with each fine-tuning.

    Raises:
        LnbenchError: an adapter is missing, or a fine-tuning's options are wrong.
    """
    content_hash.forget()
    return [variant for model in spec.models for variant in _of_model(spec, model, out)]


def _of_model(spec: Sweep, model: ModelSpec, out: Path) -> Iterator[Loading | Training]:
    held = content_of(model.pretrained)
    content: Any = held
    if beside := content_hash.of_settings(model.options, model.pretrained):
        content = [content, sorted(beside.items())]  # as tokenizer=FOLDER
    files = held if is_folder(model.pretrained) else None
    plain = Loading(model.pretrained, model.options, content=content, model_files=files)
    if spec.base:
        yield plain
    for name, adapter in spec.adapters.items():
        if adapter.model in (None, model.pretrained):
            yield _adapted(plain, name, adapter)
    for name, options in spec.finetune.items():
        yield _training(plain, name, options, out)


def _adapted(plain: Loading, name: str, adapter: AdapterSpec) -> Loading:
    folder = Path(adapter.path)
    # A folder may name an adapter on the hub, which lm-eval fetches.
    files = sorted({file for pattern in _ADAPTER_FILES for file in folder.glob(pattern) if file.is_file()})
    parts = {file.name: content_hash.of_file(str(file)) for file in files}
    if folder.is_dir() and not parts:
        raise LnbenchError(f"adapters.{name}: {folder} holds no PEFT adapter")
    head = adapter.path if adapter.head and HEAD in parts else None
    content = [plain.content, parts or adapter.path, head is not None]
    return replace(plain, finetune=name, adapter=adapter.path, head=head, content=content)


def _training(plain: Loading, name: str, options: Mapping[str, Any], out: Path) -> Training:
    if reserved := {"model", "out"} & set(options):
        raise LnbenchError(f"finetune.{name}: leave {min(reserved)} out, it follows from the sweep")
    given = {"model_args": dict(plain.options), **options, "model": plain.model}
    try:
        key = FinetuneJob(out=out, **given).key
        folder = slug(f"{name}-{Path(plain.model).name}-{key[:8]}")
        job = FinetuneJob(out=out / FINETUNED / folder, **given)
    except LnbenchError as error:
        raise LnbenchError(f"finetune.{name}: {error}") from error
    head = str(job.out) if job.training.answer == "head" else None
    return Training(job, replace(plain, finetune=name, adapter=str(job.out), head=head, content=[plain.content, key]))
