"""One traced forward pass: which linear maps read ``σ(gate)``, or ``σ(gate) · up``, of which other linear maps.

Linear maps are atomic. Every tensor that is, coordinate by coordinate, a function of outputs of linear maps carries a
label: of which outputs, and how often a truly non-linear function was applied on the way. What mixes coordinates
(attention, scans, convolutions) carries none, so only feed-forwards are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Origin(NamedTuple):
    """Some output coordinates of one linear map: every ``step``-th from ``start`` on."""

    linear: str
    """The module's name, from the model traced."""
    call: int
    """Which call of it."""
    source: int
    """Which tensor it read: equal numbers are one tensor."""
    start: int
    step: int


@dataclass(frozen=True)
class Label:
    """What a tensor's coordinates are a function of."""

    origins: tuple[Origin, ...]
    curved: int = 0
    """Non-linear functions applied on the way."""
    normed: bool = False
    """A norm over the coordinates lies on the way."""
    module: str | None = None
    """The module, no linear map, that gave this very tensor."""
    factors: tuple[Label, Label] | None = None
    """The neuron and what it is multiplied with, in a product of two."""


@dataclass(frozen=True)
class Read:
    """A linear map that reads the neurons of a feed-forward."""

    after: str
    label: Label
    size: int
    """Its number of inputs."""
    block: str
    """The block that ran, an element of the outermost ``ModuleList``."""
    values: Tensor
    """What it read."""

    @property
    def neuron(self) -> Label:
        """The non-linearity's output."""
        return self.label.factors[0] if self.label.factors else self.label

    @property
    def before(self) -> Origin:
        """What enters the non-linearity."""
        return self.neuron.origins[0]

    @property
    def up(self) -> Origin | None:
        """What the neurons are multiplied with, if anything."""
        return self.label.factors[1].origins[0] if self.label.factors else None


@dataclass
class Trace:
    """What was seen in one forward pass."""

    reads: list[Read] = field(default_factory=list)
    ran: dict[str, int] = field(default_factory=dict)
    """Module → calls."""
    used: set[str] = field(default_factory=set)
    """Linear maps whose output, as it is or scaled, was added to something, or read by one of which that holds."""
    read_by: dict[str, set[str]] = field(default_factory=dict)
    """Linear map → those whose output it reads as it is."""
    linear: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Linear map → its numbers of inputs and outputs, in order of the first call."""
    outputs: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """Linear map and number of the call → its output."""
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


_aten = torch.ops.aten
_REPEATS = {"_unsafe_view", "_to_copy"} | {
    # Writes of single places, such as the hooks of others make.
    *("index_copy", "index_put", "index_fill", "scatter", "masked_fill", "slice_scatter", "select_scatter")
}
_KEEP = {  # what leaves every coordinate where it is, or moves whole rows
    *(_aten.view.default, _aten.expand.default, _aten.unsqueeze.default),
    *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.transpose.int, _aten.permute.default),
    *(_aten.clone.default, _aten.detach.default, _aten.alias.default),
    *(_aten.native_dropout.default, _aten.index.Tensor, _aten.index_select.default, _aten.t.default),
    *(_aten.select.int, _aten.unbind.int, _aten.copy_.default, _aten.lift_fresh.default, _aten.constant_pad_nd.default),
}
_CUT = {_aten.slice.Tensor, _aten.split.Tensor, _aten.split_with_sizes.default}
_NORMS = {"native_layer_norm", "_fused_rms_norm", "native_group_norm"}
_LINEAR = {
    *("add", "sub", "rsub", "mul", "div", "neg", "_to_copy", "clone", "copy", "native_dropout"),
    *("where", "clamp", "clamp_max", "clamp_min"),
}
_PRODUCT = {"mul"}
_SUM = {"add", "sub", "rsub"}


def _name(function: Any) -> str:
    return str(function.overloadpacket.__name__).removesuffix("_")


class _Labels(TorchDispatchMode):
    """Passes labels from the inputs of every operation to its outputs."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.labels: dict[int, Label] = {}
        self.kept: dict[int, Tensor] = {}
        """The labelled tensors, so that no other takes their place in memory."""
        self.inside = 0
        """Linear maps, one in another, that run now."""

    def of(self, tensor: Any) -> Label | None:
        return self.labels.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def put(self, tensor: Tensor, label: Label | None) -> None:
        if label is None:
            self.labels.pop(id(tensor), None)
        else:
            self.labels[id(tensor)], self.kept[id(tensor)] = label, tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self.inside == 0:
            flat = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else (arg,))]
            if any(id(part) in self.labels for part in flat if isinstance(part, Tensor)):
                for number, tensor in enumerate(output if isinstance(output, list | tuple) else (output,)):
                    if isinstance(tensor, Tensor):
                        self.put(tensor, self._label(func, args, flat, tensor, number))
        return output

    def _label(self, func: Any, args: Any, flat: list[Any], output: Tensor, number: int) -> Label | None:
        first = next(part for part in flat if isinstance(part, Tensor))
        label = self.of(first)
        if func in _CUT:
            return self._cut(func, args, label, output, number)
        if func in _KEEP or _name(func) in _REPEATS:
            kept = output.ndim > 0 and first.ndim > 0 and output.shape[-1] == first.shape[-1]
            if label is None or not kept or (func is _aten.transpose.int and first.ndim - 1 in _positive(args, first)):
                return None
            return label
        if _name(func) in _NORMS:
            return None if label is None or number else replace(label, normed=True, module=None)
        if torch.Tag.pointwise in func.tags or _name(func) == "where":
            return self._pointwise(func, args, flat, output)
        return None

    @staticmethod
    def _cut(func: Any, args: Any, label: Label | None, output: Tensor, number: int) -> Label | None:
        if label is None:
            return None
        tensor = args[0]
        dim = args[1] if func is _aten.slice.Tensor and len(args) > 1 else args[2] if len(args) > 2 else 0
        if dim % tensor.ndim != tensor.ndim - 1:
            return label
        if func is _aten.slice.Tensor:
            start, step = (args[2] or 0) if len(args) > 2 else 0, args[4] if len(args) > 4 else 1
            start = start + tensor.shape[-1] if start < 0 else start
        elif func is _aten.split.Tensor:
            start, step = number * args[1], 1
        else:
            start, step = sum(args[1][:number]), 1
        if label.factors or not output.shape[-1]:
            return None
        origins = tuple(
            origin._replace(start=origin.start + start * origin.step, step=origin.step * step)
            for origin in label.origins
        )
        return replace(label, origins=origins, module=None) if output.shape[-1] != tensor.shape[-1] else label

    def _pointwise(self, func: Any, args: Any, flat: list[Any], output: Tensor) -> Label | None:
        name, per_token = _name(func), False
        labels: list[Label] = []
        for part in flat:
            if not isinstance(part, Tensor):
                continue
            label = self.of(part)
            if label is not None:
                labels.append(label)
            elif name in _SUM and part.shape == output.shape:
                self.trace.used |= _linear_in(own for own in map(self.of, flat) if own)
                return None
            elif part.numel() > 1 and part.shape[-1] > 1 and part.numel() != part.shape[-1]:
                return None  # a factor of each token and coordinate that is no function of linear maps' outputs
            elif part.numel() > 1 and part.shape[-1] == 1:
                per_token = True
        if name in _SUM and len(labels) > 1:
            self.trace.used |= _linear_in(labels)
        joined = self._joined(name, args, labels)
        return replace(joined, normed=True) if joined is not None and per_token and name in ("mul", "div") else joined

    @staticmethod
    def _joined(name: str, args: Any, labels: list[Label]) -> Label | None:
        distinct = {label.origins for label in labels}
        curved = max(label.curved for label in labels)
        normed = any(label.normed for label in labels)
        if len(distinct) > 1:
            own = {origin for origins in distinct for origin in origins}
            if name in _PRODUCT and len(labels) == 2 and not set(labels[0].origins) & set(labels[1].origins):
                neuron, other = sorted(labels, key=lambda label: -label.curved)
                if neuron.curved == other.curved or neuron.factors or other.factors:
                    return None
                return Label(tuple(sorted(own)), curved, normed, factors=(neuron, other))
            if any(label.factors for label in labels):
                return None
            if name in _SUM and curved == 0:
                # The main map first: an adapter's sum beside it is smaller in name only.
                return Label(tuple(dict.fromkeys(origin for label in labels for origin in label.origins)), 0, normed)
            return None
        label = labels[0]
        if label.factors is not None:
            return replace(label, module=None, normed=normed) if name in _LINEAR and len(labels) == 1 else None
        relu = name in ("clamp", "clamp_min") and len(args) > 1 and args[1] == 0 and (len(args) < 3 or args[2] is None)
        grown = curved + 1 if relu or name not in _LINEAR or len(labels) > 1 else curved
        same = name in ("_to_copy", "clone", "copy")
        return Label(label.origins, grown, normed and grown == curved, label.module if same else None)


def _linear_in(labels: Iterable[Label]) -> set[str]:
    """Return the linear maps whose outputs are among these, as they are, or scaled by something else."""
    parts = [part for label in labels for part in (label.factors or (label,))]
    return {origin.linear for part in parts if not part.curved for origin in part.origins}


def _positive(args: Any, tensor: Tensor) -> set[int]:
    return {dim % tensor.ndim for dim in args[1:3]}


def shape_of(module: nn.Module) -> tuple[int, int] | None:
    """Return the numbers of inputs and outputs of a linear map; None for another module.

    PEFT's wrappers and bitsandbytes' layers have ``in_features``, GPT-2's ``Conv1D`` has ``nx`` and ``nf``.
    """
    base = module
    while isinstance(inner := getattr(base, "base_layer", None), nn.Module):
        base = inner
    for names in (("in_features", "out_features"), ("nx", "nf")):
        sizes = [getattr(base, name, None) for name in names]
        if all(isinstance(size, int) for size in sizes):
            return sizes[0], sizes[1]  # type: ignore[return-value]
    return None


def block_names(model: nn.Module) -> list[str]:
    """Return the names of the elements of a model's outermost ``ModuleList``s, in order; shared ones once."""
    names: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{block}.") for block in names):
            names += [f"{name}.{number}" for number in range(len(module))]
    return names


@contextmanager
def _hooked(model: nn.Module, labels: _Labels) -> Iterator[None]:
    trace, sources, handles = labels.trace, dict[int, int](), list[Any]()
    running: list[str] = []

    def enter(name: str, sizes: tuple[int, int] | None) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            if labels.inside == 0 and sizes is not None and args and isinstance(args[0], Tensor):
                label = labels.of(args[0])
                if label is not None and label.curved and running:
                    trace.reads.append(Read(name, label, sizes[0], running[-1], args[0]))
                elif label is not None:
                    trace.read_by.setdefault(name, set()).update(_linear_in([label]))
                labels.kept[id(args[0])] = args[0]
            labels.inside += sizes is not None

        return hook

    def leave(name: str, sizes: tuple[int, int] | None) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            labels.inside -= sizes is not None
            if labels.inside:
                return
            call = trace.ran[name] = trace.ran.get(name, 0) + 1
            if not isinstance(output, Tensor):
                return
            if sizes is not None:
                trace.linear.setdefault(name, sizes)
                trace.outputs[name, call] = output
                source = sources.setdefault(_storage(args[0]), len(sources)) if args else -1
                labels.put(output, Label((Origin(name, call, source, 0, 1),)))
                return
            label = labels.of(output)
            own = labels.of(args[0]) if args and isinstance(args[0], Tensor) else None
            if label is not None and label.module is None and own is not None and label.curved > own.curved:
                labels.put(output, replace(label, module=name))

        return hook

    try:
        for name in block_names(model):
            block = model.get_submodule(name)
            enter_block = lambda *_, name=name: running.append(name)  # noqa: E731
            handles.append(block.register_forward_pre_hook(enter_block, prepend=True))
            handles.append(block.register_forward_hook(lambda *_: running.pop() and None))
        for name, module in model.named_modules():
            sizes = shape_of(module)
            handles.append(module.register_forward_pre_hook(enter(name, sizes), prepend=True))
            handles.append(module.register_forward_hook(leave(name, sizes), always_call=False))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _storage(tensor: Any) -> int:
    return int(tensor.data_ptr()) if isinstance(tensor, Tensor) else -1


def trace_model(model: nn.Module, inputs: dict[str, Tensor]) -> Trace:
    """Run ``model`` once on a few tokens and return what its linear maps read.

    Args:
        model: A causal LM, in evaluation mode.
        inputs: Arguments of its forward, a few tokens long: everything that carries a label is kept till the end.
    """
    labels = _Labels(Trace())
    with torch.no_grad(), _hooked(model, labels), labels:
        labels.trace.logits = model(**inputs).logits
    trace = labels.trace
    for name in reversed(trace.linear):
        if name in trace.used:
            trace.used |= trace.read_by.get(name, set())
    return trace
