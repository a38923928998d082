"""The built-in fine-tuners: LoRA on the attention, on it and on selected neurons, and selected neurons' own weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.hookspecs import hookimpl

if TYPE_CHECKING:
    from lnbench.neurons import NeuronSet


@dataclass(kw_only=True)
class Lora:
    """LoRA on the attention's query, key, value and output projections (Hu et al. 2022)."""

    rank: int = Field(default=8, gt=0, description="rank of the update")
    alpha: int = Field(default=16, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the update's input")
    output_projection: bool = Field(
        default=True, description="whether the attention's output projection is trained, beside query, key and value"
    )
    seed: int = Field(default=0, ge=0, description="seed of the first weights and of random neurons")

    def train(self, model: Any, tokenizer: Any, neurons: NeuronSet | None, data: Any, output_dir: Path) -> Path:
        from lnbench.finetuning.lora import build_adapter, save_adapter
        from lnbench.finetuning.training import train_adapter

        chosen = self.chosen(model, neurons)
        parameters = {name: value for name, value in asdict(self).items() if name != "languages"}
        adapted = build_adapter(model, chosen, **parameters)
        train_adapter(adapted, tokenizer, data, output_dir)
        return save_adapter(adapted, output_dir, chosen)

    def chosen(self, model: Any, neurons: NeuronSet | None) -> NeuronSet | None:
        """Return the neurons that are trained."""
        return None


@dataclass(kw_only=True)
class MaskedLora(Lora):
    """LoRA on the attention and on the selected neurons' rows of the feed-forward block.

    A gate update has one row per neuron (in a plain block: the update of the projection before the non-linearity), and
    so has an up update; a down update has one column per neuron. All others stay as they are, exactly. Neurons of
    experts have theirs in their expert's matrices. Of heads (neurons of the site ``attention``) the columns of the
    output projection that read them are trained, and nothing else of the attention.
    """

    languages: str = Field(description="whose neurons: `en`, `en+hi`, `random`, `random-like-en+hi`, `all` or `none`")
    attention: bool = Field(
        default=True, description="whether the attention is trained too; of chosen heads, theirs alone is"
    )
    projections: tuple[Literal["gate", "up", "down"], ...] = Field(
        default=("gate",), min_length=1, description="feed-forward projections to train"
    )

    def check(self, model: Any, neurons: NeuronSet | None) -> None:
        """Refuse languages that ``neurons`` lacks."""
        self.chosen(model, neurons)

    def chosen(self, model: Any, neurons: NeuronSet | None) -> NeuronSet:
        """Return the neurons that are trained.

        Raises:
            LnbenchError: ``neurons`` lacks a language that is asked for.
        """
        from lnbench.finetuning.trained_neurons import chosen_neurons, no_neurons

        return chosen_neurons(neurons or no_neurons(model), self.languages, seed=self.seed)


@dataclass(kw_only=True)
class Rows:
    """The selected neurons' own weights, trained directly: Sparse Subnetwork Enhancement (Gurgurov et al. 2025).

    Paper: https://arxiv.org/abs/2510.13580. The rows of gate and up (in a plain block: of the projection before the
    non-linearity) and the columns of down that belong to the neurons are parameters, without any low rank; all other
    weights stay as they are, exactly. The adapter is an ordinary PEFT one, of a rank of the neurons in each layer.
    Neurons of experts have theirs in their expert's matrices; of heads, the columns of the output projection are.
    """

    languages: str = Field(description="whose neurons: `en`, `en+hi`, `random`, `random-like-en+hi` or `all`")
    projections: tuple[Literal["gate", "up", "down"], ...] = Field(
        default=(), description="feed-forward projections to train; all that the model has by default"
    )
    seed: int = Field(default=0, ge=0, description="seed of random neurons")

    def check(self, model: Any, neurons: NeuronSet | None) -> None:
        """Refuse languages that ``neurons`` lacks, and a choice without neurons."""
        self.chosen(model, neurons)

    def train(self, model: Any, tokenizer: Any, neurons: NeuronSet | None, data: Any, output_dir: Path) -> Path:
        from lnbench.finetuning.lora import save_adapter
        from lnbench.finetuning.rows import build_rows
        from lnbench.finetuning.training import train_adapter

        chosen = self.chosen(model, neurons)
        adapted = build_rows(model, chosen, projections=self.projections)
        train_adapter(adapted, tokenizer, data, output_dir)
        return save_adapter(adapted, output_dir, chosen)

    def chosen(self, model: Any, neurons: NeuronSet | None) -> NeuronSet:
        """Return the neurons that are trained.

        Raises:
            LnbenchError: ``neurons`` lacks a language that is asked for, or there are none.
        """
        from lnbench.errors import LnbenchError
        from lnbench.finetuning.trained_neurons import chosen_neurons, no_neurons

        chosen = chosen_neurons(neurons or no_neurons(model), self.languages, seed=self.seed)
        if not any(chosen.count(language) for language in chosen):
            raise LnbenchError(f"rows:languages={self.languages} chooses no neuron to train; choose other languages")
        return chosen


@hookimpl
def lnbench_register_finetuners(register: Callable[[str, Any], None]) -> None:
    register("lora", Lora)
    register("masked_lora", MaskedLora)
    register("rows", Rows)
