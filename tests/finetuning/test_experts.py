"""Fine-tuning the neurons of experts, and heads: what changes is theirs, by weights read by name; all else stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from lnbench import NeuronSet
from lnbench.finetuning.inspect import weight_drift
from lnbench.finetuning.lora import build_adapter, count_parameters, save_adapter
from lnbench.finetuning.rows import build_rows
from lnbench.finetuning.targets import layer_of
from lnbench.finetuning.trained_neurons import chosen_neurons
from lnbench.model.describe import model_name
from lnbench.model.experts import ExpertsBank, outermost
from lnbench.model.locate import locate
from tests.support.adapters import logits
from tests.support.every_type import build_type
from tests.support.experts_by_hand import marked
from tests.support.messages import refused
from tests.support.tiny import HEADS, HIDDEN, LAYERS, WIDTH, build

CASES = (
    ("mixtral", "masked_lora"),
    ("deepseek_v3", "masked_lora"),
    ("gpt_oss", "rows"),
    ("llama4_text", "rows"),
    ("jetmoe", "rows"),
)
"""One interface; with dense layers and shared experts; transposed and interleaved; bmm of all tokens; sorted tokens."""
IDS = torch.randint(10, 190, (2, 16), generator=torch.Generator().manual_seed(1))


def set_of(model: Any, share: int = 8) -> NeuronSet:
    sites, generator = locate(model), torch.Generator().manual_seed(0)
    chosen: dict[int, Tensor] = {}
    for bank in sites.banks:
        own = torch.randperm(bank.width, generator=generator)[: bank.width // share] + bank.start
        chosen[bank.layer] = torch.cat([chosen.get(bank.layer, own[:0]), own])
    units = {"widths": sites.widths, "experts": sites.layouts}
    return NeuronSet(model_name(model), sites.layers, sites.width, {"hi": chosen}, **units)


def own_weights(model: Any, neurons: NeuronSet) -> dict[str, Tensor]:
    """Parameter → which of its entries are the neurons', those of linear maps found by their names in the type."""
    sites, chosen = locate(model), neurons["hi"]
    marks = marked(model, {bank: bank.own(chosen[bank.layer]) for bank in sites.experts})
    for bank in sites.dense:
        for name, parameter in model.get_submodule(bank.path).named_parameters():
            dim = {"gate_proj.weight": 0, "up_proj.weight": 0, "down_proj.weight": 1}.get(name)
            if dim is not None:
                mask = torch.zeros(parameter.shape, dtype=torch.bool)
                marks[f"{bank.path}.{name}"] = mask.index_fill(dim, bank.own(chosen[bank.layer]), value=True)
    return marks


def descend(model: nn.Module, marks: dict[str, Tensor] | None = None, steps: int = 2, lr: float = 0.5) -> None:
    """Plain gradient steps on what requires a gradient, or on the marked entries."""
    for name, parameter in model.named_parameters():
        if marks is not None:
            parameter.requires_grad_(name in marks)
    for _ in range(steps):
        model.zero_grad()
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    parameter -= lr * parameter.grad * (1 if marks is None else marks[name])


def same_bits(one: Tensor, other: Tensor) -> Tensor:
    return one.view(torch.int32) == other.view(torch.int32)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "finetuner"), CASES)
def test_only_the_chosen_neurons_weights_change(name: str, finetuner: str, tmp_path: Path) -> None:
    model = build_type(name)
    neurons = set_of(model)
    marks, before = own_weights(model, neurons), dict(build_type(name).named_parameters())
    if finetuner == "rows":
        adapted = build_rows(model, neurons)
    else:
        adapted = build_adapter(model, neurons, attention=False, projections=["gate", "up", "down"])
    assert torch.equal(logits(adapted, IDS), logits(build_type(name), IDS))
    descend(adapted)
    counts, drift = count_parameters(adapted), weight_drift(adapted, neurons)
    loaded = PeftModel.from_pretrained(build_type(name), save_adapter(adapted, tmp_path, neurons))
    assert torch.equal(logits(loaded, IDS), logits(adapted, IDS))
    # A loaded adapter is located and checked as any model.
    assert locate(loaded).widths == locate(model).widths and locate(loaded).check.banks
    merged = dict(loaded.merge_and_unload().named_parameters())
    assert merged.keys() == before.keys()
    for parameter, old in before.items():
        same = same_bits(merged[parameter], old)
        mask = marks.get(parameter, torch.zeros_like(same))
        assert same[~mask].all(), parameter
        assert not same.all() or parameter not in marks, parameter
    assert drift.share_on_chosen == pytest.approx(1)
    if finetuner == "rows":
        assert counts.trainable == counts.of_neurons == sum(int(mask.sum()) for mask in marks.values())
        by_hand = build_type(name)
        descend(by_hand, marks)
        for parameter, expected in by_hand.named_parameters():
            torch.testing.assert_close(merged[parameter], expected, rtol=1e-3, atol=1e-5, msg=parameter)
    else:
        assert 0 < counts.of_neurons < counts.trainable
    changes = torch.zeros(*drift.change.shape, dtype=torch.double)
    for bank in locate(model).experts:
        change, weights = own_norms(bank, merged, before)
        changes[bank.layer, bank.start : bank.start + bank.width] = (change / weights).sqrt()
    of_experts = chosen_of_experts(model, neurons, drift.change)
    torch.testing.assert_close(drift.change[of_experts], changes[of_experts], rtol=1e-3, atol=1e-6)


def own_norms(bank: ExpertsBank, after: dict[str, Any], before: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Squared norms of each neuron's change and weights, one weight at a time."""
    change, weights = torch.zeros(bank.width).double(), torch.zeros(bank.width).double()
    for matrix, dim in ((bank.before, 2), (bank.up, 2), (bank.down, 1)):
        if matrix is not None:
            name = outermost(matrix.parameter)
            first, last = (matrix.laid_out(values[name], bank.experts) for values in (before, after))
            change += (last - first).detach().double().square().sum(dim).flatten()
            weights += first.detach().double().square().sum(dim).flatten()
    return change, weights


def chosen_of_experts(model: Any, neurons: NeuronSet, like: Tensor) -> Tensor:
    mask = torch.zeros(like.shape, dtype=torch.bool)
    for bank in locate(model).experts:
        mask[bank.layer, bank.own(neurons["hi"][bank.layer]) + bank.start] = True
    return mask


def test_factors_of_experts_hold_the_chosen_entries_alone() -> None:
    model = build_type("mixtral")
    neurons = set_of(model)
    adapted = build_adapter(model, neurons, rank=3, attention=False, projections=["gate", "down"])
    count = neurons.count("hi")
    assert count_parameters(adapted).of_neurons == 2 * 3 * count
    layer = layer_of(adapted.base_model.model, "model.layers.0.mlp.experts.gate_up_proj")
    factor = layer.lora_B["default"]
    assert factor.entries.shape == (int(neurons.per_layer("hi")[0]), 3)
    state = {name: torch.ones_like(value) for name, value in adapted.state_dict().items() if "lora_B" in name}
    with refused("neurons", str(len(factor.kept))):
        adapted.load_state_dict(state, strict=False)


@pytest.mark.slow
def test_all_neurons_of_experts_are_plain_lora() -> None:
    model = build_type("mixtral")
    build_adapter(model, chosen_neurons(set_of(model), "all"), attention=False, projections=["gate", "up"])
    parameter = outermost(locate(model).experts[0].before.parameter)
    factor = layer_of(model, parameter).lora_B["default"]
    assert type(factor) is nn.Linear and factor.weight.requires_grad


def test_what_peft_cannot_adapt_is_refused() -> None:
    model = build_type("dbrx")
    with refused("experts.mlp.w1", "attention"):
        build_rows(model, set_of(model))
    mixture = build_type("mixtral")
    with refused("dropout=0", "MixtralForCausalLM"):
        build_adapter(mixture, set_of(mixture), dropout=0.1)


class _Experts(nn.Module):
    """Experts with linear maps of their own, as code beside transformers writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(HIDDEN, 4, bias=False)
        one = {"gate_proj": (HIDDEN, 24), "up_proj": (HIDDEN, 24), "down_proj": (24, HIDDEN)}
        each = [nn.ModuleDict({name: nn.Linear(*sizes) for name, sizes in one.items()}) for _ in range(4)]
        self.experts = nn.ModuleList(each)

    def forward(self, hidden: Tensor) -> Tensor:
        weights, chosen = self.gate(hidden).softmax(-1).topk(2)
        outputs = [
            own["down_proj"](nn.functional.silu(own["gate_proj"](hidden)) * own["up_proj"](hidden))
            for own in self.experts
        ]
        picked = torch.stack(outputs, -2).gather(-2, chosen.unsqueeze(-1).expand(*chosen.shape, HIDDEN))
        return (picked * weights.unsqueeze(-1)).sum(-2)


def test_experts_with_linear_maps_of_their_own_are_refused_with_what_helps() -> None:
    model: Any = build("llama")
    model.model.layers[1].mlp = _Experts()
    with refused("model.layers.1.mlp.experts", "4", "trust_remote_code"):
        locate(model)


HEAD = HIDDEN // HEADS
OUTPUTS = {"llama": ("self_attn.o_proj", 1), "gpt2": ("attn.c_proj", 0), "opt": ("self_attn.out_proj", 1)}


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "finetuner"), [("llama", "masked_lora"), ("gpt2", "rows"), ("opt", "rows")])
def test_of_heads_the_columns_that_read_them_change(model_type: str, finetuner: str, tmp_path: Path) -> None:
    model, (path, dim), chosen = build(model_type), OUTPUTS[model_type], {0: [1], 2: [0, HEADS - 1]}
    heads = NeuronSet(model_name(model), LAYERS, HEADS, {"hi": chosen}, site="attention", unit_size=HEAD)
    adapted = build_rows(model, heads) if finetuner == "rows" else build_adapter(model, heads)
    descend(adapted)
    counts = count_parameters(adapted)
    loaded = PeftModel.from_pretrained(build(model_type), save_adapter(adapted, tmp_path, heads))
    merged, changed = dict(loaded.merge_and_unload().named_parameters()), 0
    for name, old in build(model_type).named_parameters():
        mask = torch.zeros(old.shape, dtype=torch.bool)
        layer = next((int(part) for part in name.split(".") if part.isdigit()), None)
        if name.endswith(f".{path}.weight") and layer in chosen:
            for head in chosen[layer]:
                mask.narrow(dim, head * HEAD, HEAD)[:] = True
        same = same_bits(merged[name].contiguous(), old.contiguous())
        assert same[~mask].all(), name
        assert not mask.any() or not same[mask].all(), name
        changed += int(mask.sum())
    assert changed == 3 * HEAD * HIDDEN
    assert counts.of_neurons == (changed if finetuner == "rows" else 3 * HEAD * 8)


@pytest.mark.parametrize(
    ("units", "named"),
    [
        ({"site": "residual", "width": HIDDEN}, ["residual", "post", "attention"]),
        ({"site": "experts", "width": WIDTH}, ["experts", "post"]),
    ],
)
def test_units_without_weights_of_their_own_are_refused(units: dict[str, Any], named: list[str]) -> None:
    model = build("llama")
    chosen = NeuronSet(model_name(model), LAYERS, units["width"], {"hi": {0: [1]}}, site=units["site"])
    for tune in (build_rows, build_adapter):
        with refused(*named):
            tune(model, chosen)


def test_feed_forward_projections_of_heads_are_refused() -> None:
    model = build("llama")
    heads = NeuronSet(model_name(model), LAYERS, HEADS, {"hi": {0: [1]}}, site="attention", unit_size=HEAD)
    with refused("gate,down", "heads"):
        build_rows(model, heads, projections=("gate", "down"))
