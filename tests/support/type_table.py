"""What works on each causal-LM type: one row per type, measured on a tiny random model; and the page that shows them.

``python -m tests.support.type_table`` measures all types again and writes the page.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

from lnbench import collect_statistics, override
from lnbench.errors import LnbenchError
from lnbench.finetuning.lora import build_adapter
from lnbench.model.banks import Bank
from lnbench.model.describe import model_name
from lnbench.model.experts import ExpertsBank
from lnbench.model.locate import locate
from lnbench.model.sites import Sites
from lnbench.neurons import NeuronSet
from lnbench.override_values import LayerOverride, Override
from lnbench.statistics import Statistics
from tests.support.every_type import TYPES, VARIANTS, VOCABULARY, build_type
from tests.support.experts_by_hand import Neurons, marked, written_out

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "architectures.md"
YES = "yes"
_STEPS = 4
_GENERATOR = torch.Generator().manual_seed(1)
IDS = torch.randint(10, VOCABULARY - 10, (2, 16), generator=_GENERATOR)


class TypeRow(NamedTuple):
    """One type's row."""

    name: str
    neurons: str
    """Neurons per layer and the form of the feed-forward, or why there are none."""
    checks: tuple[str, ...] = ()
    """Self-check, statistics, override, generation, LoRA: ``yes``, or what went wrong."""

    def line(self) -> str:
        """The row as Markdown."""
        cells = [f"`{self.name}`", self.neurons, *(self.checks or ("–",) * len(CHECKS))]
        return f"| {' | '.join(cells)} |"


def measure(name: str) -> TypeRow:
    """Build a type and try everything on it."""
    try:
        model = build_type(name)
    except Exception as error:  # What transformers cannot build has its reason in the table.
        return TypeRow(name, f"not built: {_one_line(error)}")
    try:
        sites = locate(model)
    except LnbenchError as error:
        return TypeRow(name, f"refused: {_reason(error)}")
    note = "" if sites.check.earlier == 0 else "; not causal, of which a warning is given"
    neurons = f"{_widths(sites)}; {_styles(sites)}{note}"
    return TypeRow(name, neurons, tuple(_outcome(check, name) for check in CHECKS.values()))


def _outcome(check: Callable[[Any, Sites], None], name: str) -> str:
    model = build_type(name)
    try:
        check(model, locate(model))
    except AssertionError as error:
        return f"**no**: {_one_line(error) or 'not equal'}"
    except (LnbenchError, ValueError, RuntimeError, TypeError, KeyError, NotImplementedError, AttributeError) as error:
        return f"no: {_one_line(error)}"
    return YES


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    return text if len(text) <= 90 else f"{text[:89]}…"


_REASONS = {
    "looks like experts": "its experts are no matrices of one non-linearity",
    "no feed-forward": "no feed-forward",
    "positions are not the text's tokens": "its positions are not the text's tokens",
    "cannot run on": "cannot run on text alone",
}


def _reason(error: LnbenchError) -> str:
    return next((short for part, short in _REASONS.items() if part in str(error)), _one_line(error))


def _widths(sites: Sites) -> str:
    dense = [sum(bank.width for bank in sites.dense_in(layer)) for layer in range(sites.layers)]
    of_experts = [
        [f"{bank.experts} × {bank.expert_width}" for bank in sites.experts if bank.layer == layer]
        for layer in range(sites.layers)
    ]
    widths = [
        " + ".join([*([str(width)] if width or not routed else []), *(f"({own})" for own in routed)])
        for width, routed in zip(dense, of_experts, strict=True)
    ]
    runs = [(width if "+" not in width else f"({width})", len(list(same))) for width, same in groupby(widths)]
    return " + ".join(f"{count} × {width}" for width, count in runs)


def _styles(sites: Sites) -> str:
    styles = dict.fromkeys(bank.style for bank in sites.dense)
    functional = any(bank.activation is None for bank in sites.dense)
    forms = dict.fromkeys("plain experts" if bank.up is None else "gated experts" for bank in sites.experts)
    in_gate = any(bank.in_gate for bank in sites.experts)
    return (
        f"{', '.join([*styles, *forms])}{', at the projections' if functional else ''}"
        f"{', in the gate function' if in_gate else ''}"
    )


def _self_check(_model: Any, sites: Sites) -> None:
    assert sites.check.banks, "nothing was checked"
    assert all(bank.passed for bank in sites.check.banks)


def _statistics(model: Any, sites: Sites) -> None:
    """Means and rates of both sites equal those of values kept by plain hooks on the modules of a layer."""
    statistics = collect_statistics(model, [IDS], language="en", skip=1)
    _statistics_of_experts(model, sites, statistics)
    for bank in sites.dense:
        kept: dict[str, list[Tensor]] = {"pre": [], "post": []}
        for pre, post in _values(model, sites, bank):
            kept["pre"].append(pre)
            kept["post"].append(post)
        for site, values in kept.items():
            counted = torch.cat([value[:, 1:].reshape(-1, bank.width) for value in values])
            found = statistics.at(site)
            own = slice(bank.start, bank.start + bank.width)
            torch.testing.assert_close(found.mean[bank.layer, own], counted.mean(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                found.positive_rate[bank.layer, own], (counted > 0).double().mean(0), rtol=0, atol=1e-9
            )


def _statistics_of_experts(model: Any, sites: Sites, statistics: Statistics) -> None:
    """Counts equal those of the experts written out; means are those of the tokens that are routed there."""
    kept: dict[ExpertsBank, dict[int, list[tuple[Tensor, Tensor]]]] = {bank: {} for bank in sites.experts}

    def keep(bank: ExpertsBank) -> Neurons:
        def neurons(expert: int, token: int, pre: Tensor, post: Tensor) -> None:
            if token % IDS.shape[1] >= 1:
                kept[bank].setdefault(expert, []).append((pre.clone(), post.clone()))

        return neurons

    with torch.no_grad(), written_out(model, {bank: keep(bank) for bank in sites.experts}):
        model(input_ids=IDS, use_cache=False)
    counted = IDS.numel() - len(IDS)
    for bank, by_expert in kept.items():
        for expert, own in bank.layout.parts():
            for site, values in zip(("pre", "post"), zip(*by_expert.get(expert, []), strict=True), strict=False):
                found, stacked = statistics.at(site), torch.stack(values)
                rates = (stacked > 0).double().sum(0) / counted
                torch.testing.assert_close(found.positive_rate[bank.layer, own], rates, rtol=0, atol=1e-9)
                if site == "post" or not bank.product or bank.in_gate:
                    mean = found.mean[bank.layer, own]
                    torch.testing.assert_close(mean, stacked.float().mean(0), rtol=1e-4, atol=1e-5)


def _values(model: Any, sites: Sites, bank: Bank) -> list[tuple[Tensor, Tensor]]:
    """Values of a bank per visit, read off the projections and the non-linearity called again."""
    pres: list[Tensor] = []
    running = [False]
    block = model.get_submodule(sites.names[bank.layer])
    activation = sites.activation(bank)

    def keep(values: Tensor) -> None:
        if running[0]:
            pres.append(values.reshape(*IDS.shape, -1) if not bank.length_first else values.transpose(0, 1))

    def projected(_module: nn.Module, _args: Any, output: Tensor) -> None:
        keep(output[..., bank.before.start :: bank.before.step][..., : bank.width].clone())

    def entered(_module: nn.Module, args: Any) -> None:
        keep(args[0].clone())

    if bank.activation is None:
        read = model.get_submodule(bank.before.module).register_forward_hook(projected)
    else:
        read = model.get_submodule(bank.activation).register_forward_pre_hook(entered)
    hooks = [
        block.register_forward_pre_hook(lambda *_: running.__setitem__(0, True)),
        block.register_forward_hook(lambda *_: running.__setitem__(0, False)),
        read,
    ]
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
        for hook in hooks:
            hook.remove()
        return [(pre, activation(pre.clone())) for pre in pres]


def _change(sites: Sites) -> Override:
    generator = torch.Generator().manual_seed(0)
    layers: dict[int, list[LayerOverride]] = {}
    for bank in sites.banks:
        count = 5 if isinstance(bank, Bank) else bank.width // 4
        indices = torch.randperm(bank.width, generator=generator)[:count] + bank.start
        part = LayerOverride(indices.sort().values, torch.randn(count, generator=generator) * 2)
        layers.setdefault(bank.layer, []).append(part)
    return Override(layers)


def _by_hand(model: Any, sites: Sites, change: Override) -> Tensor:
    """The logits with the down projections' inputs changed: ``v · u`` at a changed neuron, or ``v``."""
    hooks, ups = [], dict[int, Tensor]()
    parts = [part for _, part in change.parts]
    experts = {
        bank: _setting(bank, part)
        for bank, part in zip(sites.banks, parts, strict=True)
        if isinstance(bank, ExpertsBank)
    }
    running: list[int] = []
    for layer, name in enumerate(sites.names):
        block = model.get_submodule(name)
        hooks.append(block.register_forward_pre_hook(lambda *_, layer=layer: running.append(layer)))
        hooks.append(block.register_forward_hook(lambda *_: running.clear()))
    for number, bank in enumerate(sites.banks):
        part = parts[number]
        if isinstance(bank, ExpertsBank):
            continue
        places, values = part.indices - bank.start, part.values
        if bank.normed or bank.summed:
            assert bank.activation is not None

            def at_module(_module: Any, _args: Any, output: Tensor, layer: int = bank.layer, places: Tensor = places,
                          values: Any = values) -> Tensor | None:  # fmt: skip
                if running[-1:] != [layer]:
                    return None
                output = output.clone()
                output[..., places] = values.to(output.dtype)
                return output

            hooks.append(model.get_submodule(bank.activation).register_forward_hook(at_module))
            continue
        if bank.up is not None:

            def up(_module: Any, _args: Any, output: Tensor, number: int = number, bank: Bank = bank) -> None:
                ups[number] = output[..., bank.up.start :: bank.up.step][..., : bank.width]  # type: ignore[union-attr]

            hooks.append(model.get_submodule(bank.up.module).register_forward_hook(up))

        def down(_module: Any, args: Any, number: int = number, bank: Bank = bank, places: Tensor = places,
                 values: Any = values) -> Any:  # fmt: skip
            if running[-1:] != [bank.layer]:
                return None
            product = args[0].clone()
            new = values.to(product.dtype).expand(*product.shape[:-1], -1)
            product[..., places] = new if bank.up is None else new * ups[number][..., places]
            return (product, *args[1:])

        hooks.append(model.get_submodule(bank.after).register_forward_pre_hook(down))
    with torch.no_grad(), written_out(model, experts):
        logits: Tensor = model(input_ids=IDS, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits


def _setting(bank: ExpertsBank, part: LayerOverride) -> Neurons:
    values = torch.full((bank.width,), torch.nan)
    values[part.indices - bank.start] = part.values
    table = values.view(bank.experts, bank.expert_width)

    def neurons(expert: int, _token: int, _pre: Tensor, post: Tensor) -> Tensor:
        return torch.where(table[expert].isnan(), post, table[expert].to(post.dtype))

    return neurons


def _override(model: Any, sites: Sites) -> None:
    change = _change(sites)
    expected = _by_hand(model, sites, change)
    with torch.no_grad():
        plain = model(input_ids=IDS, use_cache=False).logits
        with override(model, change) as applied:
            changed = model(input_ids=IDS, use_cache=False).logits
    assert applied.tokens == IDS.numel(), f"{applied.tokens} tokens of {IDS.numel()}"
    assert not torch.equal(plain, changed), "no effect"
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)


def _generation(model: Any, sites: Sites) -> None:
    """Greedy decoding with a cache and an override equals decoding from the start at every step."""
    model.generation_config.eos_token_id = None
    # The generate of some does more than a forward pass of the ids; an encoder's cache leaves later tokens out.
    for by_hand in (_greedy, _generated) if sites.check.earlier == 0 else (_greedy,):
        try:
            alike = torch.equal(_generated(model, use_cache=True), by_hand(model))
        except Exception as error:
            raise LnbenchError(f"without an override, too, generate fails ({_one_line(error)[:40]})") from error
        if alike:
            break
    else:
        raise LnbenchError("without an override, too, its cache gives other tokens than decoding without one")
    with override(model, _change(sites)):
        cached, uncached = _generated(model, use_cache=True), by_hand(model)
    assert torch.equal(cached, uncached), "other tokens than without a cache"


def _generated(model: Any, *, use_cache: bool = False) -> Tensor:
    ids = IDS[:1]
    with torch.no_grad():
        arguments = {"max_new_tokens": _STEPS, "do_sample": False, "pad_token_id": 0, "use_cache": use_cache}
        tokens: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), **arguments)
    return tokens


def _greedy(model: Any) -> Tensor:
    ids = IDS[:1]
    with torch.no_grad():
        for _ in range(_STEPS):
            logits = model(input_ids=ids, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return ids


def _lora(model: Any, sites: Sites) -> None:
    """After two steps, the rows and columns of chosen neurons have changed, and no other."""
    chosen: dict[int, Tensor] = {}
    for layer, part in _change(sites).parts:
        chosen[layer] = torch.cat([chosen.get(layer, part.indices[:0]), part.indices])
    of_experts = {bank: bank.own(chosen[bank.layer]) for bank in sites.experts}
    units = {"widths": sites.widths, "experts": sites.layouts}
    neurons = NeuronSet(model_name(model), sites.layers, sites.width, {"en": chosen}, **units)
    gated = all(bank.up is not None for bank in sites.banks)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    marks = marked(model, of_experts)
    adapted = build_adapter(model, neurons, attention=False, projections=["gate", *(["up"] if gated else []), "down"])
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    adapted.train()
    for _ in range(2):
        loss = adapted(input_ids=IDS, labels=IDS, use_cache=False).loss
        if not loss.requires_grad:  # reversible layers, see lnbench.finetuning.training
            adapted.enable_input_require_grads()
            loss = adapted(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    merged = adapted.merge_and_unload()
    after = dict(merged.named_parameters())
    allowed: dict[int, Tensor] = {id(after[name]): mark for name, mark in marks.items()}
    for bank in sites.dense:
        own = bank.own(chosen[bank.layer])
        parts = [(bank.before.module, own * bank.before.step + bank.before.start, 0), (bank.after, own, 1)]
        if bank.up is not None:
            parts.append((bank.up.module, own * bank.up.step + bank.up.start, 0))
        for name, places, dim in parts:
            module = merged.get_submodule(name)
            mask = allowed.setdefault(id(module.weight), torch.zeros(module.weight.shape, dtype=torch.bool))
            transposed = not isinstance(module, nn.Linear)
            mask.index_fill_(1 - dim if transposed else dim, places, True)
    moved, needed = False, {id(after[name]) for name in marks}
    for name, old in before.items():
        changed = after[name] != old
        moved |= bool(changed.any())
        assert changed.any() or id(after[name]) not in needed, f"{name} did not change"
        assert not (changed & ~allowed.get(id(after[name]), torch.zeros_like(changed))).any(), f"{name} changed"
    assert moved, "nothing was trained"


CHECKS: dict[str, Callable[[Any, Sites], None]] = {
    "self-check": _self_check,
    "statistics": _statistics,
    "override": _override,
    "generation": _generation,
    "LoRA": _lora,
}

_INTRODUCTION = f"""<!-- Written by `python -m tests.support.type_table` (make architectures). -->
# Model types

Every type that transformers {transformers.__version__} loads as a causal language model, measured on a tiny
random model of it. [Architectures](../topics/architectures.md) says how neurons are found, and what `refused` means.

- **neurons**: layers × neurons per layer, and the form of the feed-forward: gated, plain, or gate and up in one matrix.
  *At the projections*: the non-linearity is no module of its own, so values are written at the down projection's input.
  `(4 × 24)` are 4 experts of 24 neurons each; before it, what every token runs beside them.
- **self-check**: writing a neuron in every layer has the effect that its weights predict, and no other.
- **statistics**: means and activation rates equal those of values kept by plain hooks.
- **override**: the logits equal those of a forward pass whose down projections' inputs were changed by hand.
- **generation**: with an override, greedy decoding with a cache gives the tokens that decoding without one gives.
- **LoRA**: masked LoRA changes the weights of the chosen neurons, those of experts among them, and no others.
"""


def page(rows: list[TypeRow]) -> str:
    """The page of all rows."""
    head = ["type", "neurons", *CHECKS]
    complete = sum(bool(row.checks) and all(check == YES for check in row.checks) for row in rows)
    lines = [
        _INTRODUCTION,
        f"{complete} of {len(rows)} work in full.\n",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(row.line() for row in rows),
    ]
    return "\n".join(lines) + "\n"


def frozen() -> dict[str, str]:
    """Type → its line of the page as it is."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line for line in lines}


NAMES = (*TYPES, *VARIANTS)


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    logging.disable(logging.ERROR)


def main() -> None:
    rows = []
    with get_context("spawn").Pool(2, _quiet) as pool:
        for row in pool.imap(measure, NAMES):
            rows.append(row)
            print(row.line(), file=sys.stderr)
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
