"""Banks of experts: the routed feed-forwards of a mixture, found by their weights in the live model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lnbench.errors import LnbenchError
from lnbench.model.gate_functions import GateFunction, Product, product_in
from lnbench.model.layout import ExpertsLayout
from lnbench.model.trace import shape_of

Order = Literal["routed", "every", "sorted"]
"""How a bank runs: it is given each token's experts; every expert reads every token; or its router sorts the tokens."""

_ACTIVATIONS = ("act_fn", "activation_fn", "activation")
_GATE = "_apply_gate"
_LIKE_EXPERTS = re.compile(r"Experts?([A-Z]|$)|MoE$")
_ADAPTED = ".base_layer"
_IN_ADAPTER = re.compile(r"\.base_layer(?=\.|$)")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_DEQUANTIZE = (
    "load it with weights of 16 or 32 bits (for MXFP4: quantization_config=Mxfp4Config(dequantize=True)), and with "
    "experts_implementation=grouped_mm"
)


def outermost(name: str) -> str:
    """Return the name of a module, or a parameter, without the adapters around its module."""
    return _IN_ADAPTER.sub("", name)


def _adapted(model: nn.Module, parameter: str) -> Tensor:
    """Return a parameter with the updates of PEFT's adapters around its module, which are in it only while it runs."""
    path, _, name = parameter.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(path), name)
    if is_parametrized(model.get_submodule(path), name):
        return weight
    while path.endswith(_ADAPTED):
        path = path.removesuffix(_ADAPTED)
        adapter: Any = model.get_submodule(path)
        if getattr(adapter, "parameter_name", None) == name and not (adapter.disable_adapters or adapter.merged):
            for active in adapter.active_adapters:
                weight = weight + adapter.get_delta_weight(active)
    return weight


class Matrix(NamedTuple):
    """One matrix ``[out, in]`` for each expert, all in one parameter."""

    parameter: str
    """Its name, from the causal LM."""
    rows: int
    """Outputs of each matrix."""
    start: int = 0
    """Which of the parameter's outputs is the matrix's first."""
    step: int = 1
    transposed: bool = False
    bias: str | None = None

    def of(self, model: nn.Module, experts: int) -> Tensor:
        """Return the matrices that the model runs with, ``[experts, out, in]``: adapters are in them."""
        return self.laid_out(_adapted(model, self.parameter), experts)

    def laid_out(self, weight: Tensor, experts: int) -> Tensor:
        """Return the matrices ``[experts, out, in]``, as a view of the parameter's value."""
        if weight.ndim == 2:
            weight = weight.view(experts, -1, weight.shape[-1])
        weight = weight.transpose(1, 2) if self.transposed else weight
        return weight[:experts, self.start : self.start + self.step * self.rows : self.step]

    def apply(self, model: nn.Module, experts: int, expert: int, values: Tensor) -> Tensor:
        """Return one expert's outputs ``[rows, out]`` of values ``[rows, in]``."""
        product = values @ self.of(model, experts)[expert].T
        if self.bias is None:
            return product
        bias: Tensor = attrgetter(self.bias)(model)[expert]
        return product + bias[self.start : self.start + self.step * self.rows : self.step]


@dataclass(frozen=True)
class ExpertsBank:
    """The neurons of all experts of one layer: neuron ``expert · expert_width + index`` is an expert's ``index``-th."""

    layer: int
    path: str
    """The experts' module, from the causal LM."""
    experts: int
    expert_width: int
    """Neurons of each expert."""
    before: Matrix
    """What enters the non-linearity."""
    down: Matrix
    """What reads the neurons."""
    up: Matrix | None
    """What the neurons are multiplied with, if anything."""
    order: Order
    activation: str
    """The non-linearity, from the causal LM: a module, or an attribute that holds a function; or the gate function."""
    product: Product | None = None
    """Where the gate function has the neurons, if the experts have such a function."""
    in_gate: bool = False
    """The neurons are read and written in the gate function: the non-linearity is no module or attribute."""
    start: int = 0
    """Number of its first neuron in the layer; experts follow the layer's other feed-forwards."""

    @property
    def width(self) -> int:
        """The number of neurons."""
        return self.experts * self.expert_width

    @property
    def outer(self) -> str:
        """The outermost module around the experts that is theirs alone: an adapter's, if one is put on them."""
        return outermost(self.path)

    @property
    def is_routed(self) -> bool:
        """Whether a router chooses among them; shared experts in one bank run on every token."""
        return self.order != "every" or "shared" not in self.outer.rpartition(".")[2]

    @property
    def layout(self) -> ExpertsLayout:
        """Where its neurons are in the layer's numbering."""
        return ExpertsLayout(self.layer, self.start, self.experts, self.expert_width)

    @property
    def style(self) -> str:
        """Say what the bank is made of."""
        return f"{self.experts} experts × {self.expert_width}, {'plain' if self.up is None else 'gated'}"

    @property
    def hook(self) -> str:
        """The module, or the function, that values are read and written at."""
        return self.activation

    def own(self, neurons: Tensor) -> Tensor:
        """Return those of a layer's neurons that are this bank's, numbered from its first."""
        return neurons[(neurons >= self.start) & (neurons < self.start + self.width)] - self.start

    def function(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the non-linearity as a function of what enters it."""
        if self.product is None:
            return attrgetter(self.activation)(model)  # type: ignore[no-any-return]
        return GateFunction(getattr(model.get_submodule(self.path), _GATE), self.product)

    def joined(self, model: nn.Module, gate: Tensor, up: Tensor) -> Tensor:
        """Return what the down projection reads, from both halves."""
        if self.product is None:
            return self.function(model)(gate) * up
        result: Tensor = getattr(model.get_submodule(self.path), _GATE)(self.product.joined(gate, up))
        return result


def experts_of(model: nn.Module) -> list[ExpertsBank]:
    """Return the banks of experts of a live model, whatever its configuration says; their layers are all 0.

    Raises:
        LnbenchError: something in it looks like experts, and cannot be read as such.
    """
    banks: list[ExpertsBank] = []
    known: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{path}.") for path in known):
            continue
        if _is_mixture_of_attention(module):
            known.append(name)
        elif fields := _read(model, name, module):
            banks.append(ExpertsBank(layer=0, path=name, **_non_linearity(model, name, module, fields)))
            known.append(name)
        elif _is_list_of_experts(name, module):
            raise LnbenchError(
                f"{name} of this {type(model).__name__} is a list of {len(module)} experts with linear maps of their "  # type: ignore[arg-type]
                "own, and which token each of their rows is of is known to the module around them alone; load the "
                "model with transformers' own class of its type, whose experts are one module (trust_remote_code=False)"
            )
    for name, module in model.named_modules():
        if _looks_like_experts(module) and not any(
            name == path or path.startswith(f"{name}.") or name.startswith(f"{path}.") for path in known
        ):
            raise LnbenchError(
                f"{name} of this {type(model).__name__} looks like experts of a mixture ({type(module).__name__}), and "
                f"their weights cannot be read as matrices of one non-linearity; if a kernel has packed them, "
                f"{_DEQUANTIZE}"
            )
    return banks


def _is_list_of_experts(name: str, module: nn.Module) -> bool:
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict) and len(module) > 1
    return is_list and name.rpartition(".")[2] == "experts" and any(map(shape_of, module.modules()))


def _looks_like_experts(module: nn.Module) -> bool:
    down = getattr(module, "down_proj", None)
    if isinstance(down, Tensor) and down.ndim == 3 and not isinstance(module, _CONVOLUTIONS):
        return True
    if not _LIKE_EXPERTS.search(type(module).__name__):
        return False
    # A shared expert is one feed-forward of linear maps, whatever its name.
    return any(
        next(inner.parameters(recurse=False), None) is not None or isinstance(inner, nn.ModuleList)
        for inner in module.modules()
        if shape_of(inner) is None
    )


def _is_mixture_of_attention(module: nn.Module) -> bool:
    return _stacked(module, "input_linear") and not any(hasattr(module, name) for name in _ACTIVATIONS)


def _stacked(module: nn.Module, child: str) -> bool:
    weight = getattr(_inside(getattr(module, child, None)), "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 3


def _inside(module: Any) -> Any:
    """Return a module inside the adapters around it."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner
    return module


def _weight_of(name: str, module: Any, child: str) -> tuple[str, Tensor]:
    """Return name and value of a child's weight, inside the adapters around it."""
    path, inner = f"{name}.{child}", getattr(module, child)
    while isinstance(getattr(inner, "base_layer", None), nn.Module):
        path, inner = f"{path}.base_layer", inner.base_layer
    return f"{path}.weight", inner.weight


def _read(model: nn.Module, name: str, module: nn.Module) -> dict[str, Any] | None:
    """Return a bank's weights and order; None for a module that is no bank of experts, or none that can be read."""
    down = getattr(module, "down_proj", None)
    if isinstance(down, Tensor) and down.ndim == 3 and not isinstance(module, _CONVOLUTIONS):
        _refuse_packed(model, name, module, down)
        return _interface(name, module, down) if hasattr(module, "is_transposed") else _own(name, module, down)
    if _stacked(module, "input_linear") and _stacked(module, "output_linear"):
        return _sorted(name, module)
    if isinstance(w1 := getattr(getattr(module, "mlp", None), "w1", None), Tensor) and hasattr(module, "num_experts"):
        return _flat(name, module, w1)
    return None


def _refuse_packed(model: nn.Module, name: str, module: nn.Module, down: Tensor) -> None:
    if getattr(module, "_is_expert_parallel", False):
        raise LnbenchError(
            f"{name} of this {type(model).__name__} holds only its process's share of the experts (expert "
            "parallelism), which lnbench does not override; split the model by layers in its place: "
            "parallelize=True, or device_map=auto, without a tp_plan or ep_plan"
        )
    if down.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise LnbenchError(
            f"{name} of this {type(model).__name__} has weights in {down.dtype}, so what its experts do cannot be "
            f"checked; {_DEQUANTIZE}"
        )


def _interface(name: str, module: Any, down: Tensor) -> dict[str, Any]:
    """Read experts of transformers' one interface, which says how its weights lie."""
    turned, biased = module.is_transposed, module.has_bias
    experts, hidden, width = down.shape[0], *(down.shape[:0:-1] if turned else down.shape[1:])
    first = f"{name}.{'gate_up_proj' if module.has_gate else 'up_proj'}"
    step = 1 if module.is_concatenated or not module.has_gate else 2
    bias = f"{first}_bias" if biased else None
    before = Matrix(first, width, 0, step, turned, bias)
    up = before._replace(start=width if step == 1 else 1) if module.has_gate else None
    down_bias = f"{name}.down_proj_bias" if biased else None
    return {
        "experts": experts,
        "expert_width": width,
        "before": before,
        "up": up,
        "down": Matrix(f"{name}.down_proj", hidden, transposed=turned, bias=down_bias),
        "order": "routed",
    }


def _own(name: str, module: Any, down: Tensor) -> dict[str, Any] | None:
    """Read experts of a model's own making, by the shapes of their weights."""
    order = "routed" if len(inspect.signature(module.forward).parameters) > 2 else "every"
    experts, one, other = down.shape
    gate_up, gate, up = (getattr(module, part, None) for part in ("gate_up_proj", "gate_proj", "up_proj"))
    if isinstance(gate_up, Tensor) and gate_up.ndim == 3:
        turned = tuple(gate_up.shape[1:]) == (other, 2 * one)
        if not turned and tuple(gate_up.shape[1:]) != (2 * other, one):
            return None
        width, hidden = (one, other) if turned else (other, one)
        before = Matrix(f"{name}.gate_up_proj", width, transposed=turned)
        second = before._replace(start=width)
    elif isinstance(gate, Tensor) and isinstance(up, Tensor) and gate.shape == up.shape == (experts, other, one):
        width, hidden, turned, order = other, one, False, "every"
        before, second = Matrix(f"{name}.gate_proj", width), Matrix(f"{name}.up_proj", width)
    else:
        return None
    return {
        "experts": experts,
        "expert_width": width,
        "before": before,
        "up": second,
        "down": Matrix(f"{name}.down_proj", hidden, transposed=turned),
        "order": order,
    }


def _sorted(name: str, module: Any) -> dict[str, Any]:
    first, gate_up = _weight_of(name, module, "input_linear")
    last, down = _weight_of(name, module, "output_linear")
    (experts, double, _), (hidden, width) = gate_up.shape, down.shape[1:]
    before = Matrix(first, width)
    return {
        "experts": experts,
        "expert_width": width,
        "before": before,
        "up": before._replace(start=width) if double == 2 * width else None,
        "down": Matrix(last, hidden),
        "order": "sorted",
    }


def _flat(name: str, module: Any, w1: Tensor) -> dict[str, Any]:
    experts, hidden = int(module.num_experts), w1.shape[1]
    width = len(w1) // experts
    return {
        "experts": experts,
        "expert_width": width,
        "before": Matrix(f"{name}.mlp.w1", width),
        "up": Matrix(f"{name}.mlp.v1", width),
        "down": Matrix(f"{name}.mlp.w2", hidden, transposed=True),
        "order": "routed",
    }


def _non_linearity(model: nn.Module, name: str, module: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Return ``fields`` with where the neurons are read and written."""
    holders = ((name, module), (f"{name}.mlp", getattr(module, "mlp", None)))
    paths = [
        f"{path}.{own}" for path, holder in holders for own in _ACTIVATIONS if callable(getattr(holder, own, None))
    ]
    gate, width, product = getattr(module, _GATE, None), fields["expert_width"], None
    if gate is not None and fields["up"] is not None:
        like = torch.zeros((), dtype=_first(module).dtype, device=_device(module))
        product = product_in(gate, width, like, interleaved=fields["before"].step == 2)
        if product is None:
            raise LnbenchError(
                f"{name} of this {type(model).__name__} joins gate and up by a function ({type(module).__name__}."
                f"{_GATE}) that multiplies no function of the gate with one of up, so it has no neurons that can be "
                "written"
            )
        if not paths or not _runs_alone(gate, attrgetter(paths[0])(model), width, like):
            return fields | {"activation": f"{name}.{_GATE}", "product": product, "in_gate": True}
    if not paths:
        raise LnbenchError(
            f"{name} of this {type(model).__name__} has no non-linearity by any of the names "
            f"{', '.join(_ACTIVATIONS)}, so its neurons cannot be hooked"
        )
    return fields | {"activation": paths[0], "product": product}


def _runs_alone(gate: Callable[[Tensor], Tensor], activation: Any, width: int, like: Tensor) -> bool:
    """Return whether a gate function calls its non-linearity with the gate alone; a plain function is taken to."""
    if not isinstance(activation, nn.Module):
        return True
    calls: list[int] = []
    handle = activation.register_forward_pre_hook(lambda _module, args: calls.append(len(args)))
    with torch.no_grad():
        gate(torch.ones(2, 2 * width).to(like))
    handle.remove()
    return calls == [1]


def _first(module: nn.Module) -> Tensor:
    return next(module.parameters())


def _device(module: nn.Module) -> torch.device:
    device = _first(module).device
    return torch.device("cpu") if device.type == "meta" else device
