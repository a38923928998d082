"""Forward passes seen from outside: which tokens are real, which were generated, and that the model's parts run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lnbench.errors import LnbenchError

Positions = Literal["all", "prompt", "generated", "not_first", "last"]
"""Which tokens are meant: every one, those of the prompt, those that the model generated, every one but a text's first,
or the last of the prompt, from which the first token of an answer is predicted."""


def both(positions: str, others: str) -> str:
    """Return the positions that are both of these, ``+`` between their names."""
    parts = [part for part in dict.fromkeys([*positions.split("+"), *others.split("+")]) if part != "all"]
    return "+".join(parts) or "all"


NOT_CALLED = (
    "the model leaves the layer out on this text, or something runs its feed-forward without calling the parts: a "
    "fused MLP (Liger: use_liger_kernel), hub kernels (use_kernels), or a graph compiled or captured before "
    "(torch.compile, CUDA graphs); load the model without it"
)
"""What can be wrong where a module was expected to run and did not."""
_LENGTHS = ("attention_mask", "inputs_embeds", "inputs", "input_ids")
"""Arguments of ``generate`` whose second dimension is the prompt's length, the first that is given."""
_CACHES = ("past_key_values", "cache_params", "state", "mems")
"""Arguments of a forward pass that hold what was computed for the tokens before."""
_PAGED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""Methods that generate with continuous batching."""
_ROW_TRACKERS = ("done_tracker",)
"""Where a stopping criterion that stops the whole batch (lm-eval's stop sequences) keeps which rows are done."""


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled models uncompiled in this block: a graph that was compiled before does not call hooks.

    ``generate`` compiles by itself with a static cache on accelerators.
    """
    with torch.compiler.set_stance("force_eager"):
        yield


class PassTokens(NamedTuple):
    """The tokens of one forward pass."""

    real: Tensor | None
    """``BoolTensor[batch, length]``; None: every one."""
    generated: Tensor | bool
    """``BoolTensor[length]``, or whether all of them are: which were generated, or follow a cached prompt."""
    seen: int = 0
    """How many of the first positions were in an earlier pass of the same generation, as they are without a cache."""
    first: Tensor | None = None
    """``BoolTensor[batch, length]``: each row's first real token; None: it is in no row of this pass."""
    last: Tensor | None = None
    """``BoolTensor[batch, length]``: the last real token of each row's prompt; None: it is in no row of this pass."""

    def meant(self, positions: str, shape: tuple[int, int]) -> Tensor | None:
        """Return ``BoolTensor[batch, length]``: the real tokens at some positions; None: every one.

        Args:
            positions: One of :data:`Positions`, or several with ``+`` between them: tokens that are all of these.
            shape: Batch and length.
        """
        if positions == "all":
            return self.real
        meant = torch.ones(shape, dtype=torch.bool) if self.real is None else self.real
        for part in positions.split("+"):
            meant = meant & self._at(part, shape).to(meant.device)
        return meant

    def _at(self, position: str, shape: tuple[int, int]) -> Tensor:
        none = torch.zeros(shape, dtype=torch.bool)
        if position in ("not_first", "last"):
            place = self.first if position == "not_first" else self.last
            place = none if place is None else place
            return ~place if position == "not_first" else place
        generated = self.generated if isinstance(self.generated, Tensor) else none[0] | self.generated
        return (generated if position == "generated" else ~generated).expand(shape)


@dataclass
class GenerationWatch:
    """What ``generate`` knows of the pass that it runs next, and forward passes are not handed."""

    _generation: _Generation | None = None

    def attach(self, model: Any, stack: ExitStack) -> None:
        """Watch ``model.generate`` until ``stack`` is closed."""
        if not callable(getattr(model, "generate", None)):
            return
        for name, replacement in {
            "generate": self._generate,
            "prepare_inputs_for_generation": self._prepare,
            "_get_stopping_criteria": self._criteria,
        }.items():
            _replace(model, name, replacement, stack)
        for name in _PAGED:
            _replace(model, name, partial(_refuse_paged, name), stack)

    def tokens(self, arguments: Mapping[str, Any], shape: tuple[int, int], *, ends: bool = True) -> PassTokens:
        """Return which tokens of a forward pass are real, and which were generated.

        Inside ``generate``, its own two-dimensional mask and the length of its prompt decide; elsewhere the mask that
        the pass is given, and whether it continues a cache.

        Args:
            arguments: Of the forward pass.
            shape: Batch and length.
            ends: Also find the first and last tokens, which costs a little in each step of a generation.

        Raises:
            LnbenchError: the mask is of a kind that padding cannot be read from.
        """
        generation = self._generation
        step = generation.take(shape) if generation is not None else None
        if generation is None or step is None:
            generated = any(_continues(arguments.get(name)) for name in _CACHES)
            real = _real(arguments, shape)
            if generated or not ends:
                return PassTokens(real, generated)
            all_real = torch.ones(shape, dtype=torch.bool) if real is None else real
            return PassTokens(real, generated, first=_first(all_real), last=_last(all_real))
        if step.mask is not None:
            real = step.mask[:, step.length - shape[1] : step.length].bool().expand(shape)
        else:
            given = _real(arguments, shape)
            real = given if given is not None else torch.ones(shape, dtype=torch.bool)
        if generation.finished is not None and len(generation.finished) == shape[0]:
            real = real & ~generation.finished.to(real.device).unsqueeze(1)
        first = step.length - shape[1]
        places = torch.arange(first, step.length, device=real.device)
        seen = min(max(0, generation.read - first), shape[1])
        generation.read = max(generation.read, step.length)
        generated_here = places >= generation.prompt
        if not ends:
            return PassTokens(real, generated_here, seen)
        # Of all tokens so far, as a prompt may come in several passes.
        whole = step.mask.bool() if step.mask is not None else torch.ones(shape[0], step.length, dtype=torch.bool)
        prompt = whole & (torch.arange(whole.shape[1], device=whole.device) < generation.prompt)
        here = slice(step.length - shape[1], step.length)
        at_first, at_last = (tokens[:, here].expand(shape) for tokens in (_first(whole), _last(prompt)))
        return PassTokens(real, generated_here, seen, at_first, at_last)

    def _generate(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def generate(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(inner).bind_partial(*args, **kwargs).arguments
            before, self._generation = self._generation, _Generation(_prompt_length(given | given.get("kwargs", {})))
            try:
                return inner(*args, **kwargs)
            finally:
                self._generation = before

        return generate

    def _prepare(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def prepare_inputs_for_generation(*args: Any, **kwargs: Any) -> Any:
            inputs = inner(*args, **kwargs)
            if self._generation is not None:
                self._generation.step = _step(args[0] if args else kwargs["input_ids"], kwargs, inputs)
            return inputs

        return prepare_inputs_for_generation

    def _criteria(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def get_stopping_criteria(*args: Any, **kwargs: Any) -> Any:
            criteria = inner(*args, **kwargs)
            config = kwargs.get("generation_config") or (args[0] if args else None)
            # A beam's rows change places, and those that have ended leave the batch.
            if self._generation is not None and (getattr(config, "num_beams", None) or 1) == 1:
                return _watched(criteria, self._generation)
            return criteria

        return get_stopping_criteria


class _Step(NamedTuple):
    """What ``generate`` is about to run: all tokens so far, of which a forward pass reads the last ones."""

    mask: Tensor | None
    length: int


@dataclass
class _Generation:
    prompt: int
    """Positions of the prompt, padding included."""
    step: _Step | None = None
    read: int = 0
    """Positions that a forward pass has read."""
    finished: Tensor | None = field(default=None, repr=False)
    """``BoolTensor[batch]``: rows that have ended, and only go with the rest of the batch."""

    def take(self, shape: tuple[int, int]) -> _Step | None:
        """Return the step that this pass runs; None for one that ``generate`` did not prepare, as of a guidance.

        Raises:
            LnbenchError: the pass reads more positions, or other rows, than were prepared.
        """
        step, self.step = self.step, None
        if step is not None and (shape[1] > step.length or (step.mask is not None and len(step.mask) != shape[0])):
            raise LnbenchError(
                f"generate prepared {step.length} positions, and the forward pass has {shape[0]} rows of {shape[1]}: "
                "this model adds positions of its own, so which of them are real tokens is not known"
            )
        return step


def _first(real: Tensor) -> Tensor:
    """Return where the first real token of each row is, ``BoolTensor[batch, length]``."""
    return real & (real.cumsum(1) == 1)


def _last(real: Tensor) -> Tensor:
    """Return where the last real token of each row is, ``BoolTensor[batch, length]``."""
    return _first(real.flip(1)).flip(1)


def _step(ids: Tensor, arguments: Mapping[str, Any], inputs: Mapping[str, Any]) -> _Step:
    """Return what ``generate`` prepared.

    Args:
        ids: All tokens so far; of a long prompt, or one that continues a cache, perhaps only those that come next.
        arguments: What was handed to ``prepare_inputs_for_generation``; a mask without padding may be left out.
        inputs: What it returned.
    """
    mask = arguments.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return _Step(mask, mask.shape[1])
    tokens = inputs.get("input_ids") if inputs.get("input_ids") is not None else inputs.get("inputs_embeds")
    past = _cached(arguments.get("past_key_values"))
    return _Step(None, ids.shape[1] if past is None or tokens is None else past + tokens.shape[1])


def _replace(model: Any, name: str, replacement: Callable[[Any], Any], stack: ExitStack) -> None:
    """Put another function in a model's place for one of its methods until ``stack`` is closed."""
    own, method = vars(model).get(name), getattr(model, name, None)
    if method is None:
        return
    setattr(model, name, functools.wraps(method)(replacement(method)))
    stack.callback(functools.partial(delattr, model, name) if own is None else lambda: setattr(model, name, own))


def _refuse_paged(name: str, _inner: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise LnbenchError(
            f"{name} packs the tokens of several texts into one row (continuous batching, paged attention), so which "
            "of them an override would change is not known; use generate"
        )

    return refuse


def _prompt_length(given: Mapping[str, Any]) -> int:
    """Return the prompt's positions from the arguments of ``generate``; 1, a BOS, where it is given none."""
    for name in _LENGTHS:
        if (value := given.get(name)) is not None and hasattr(value, "shape") and len(value.shape) > 1:
            return int(value.shape[1])
    return 1


def _watched(criteria: Any, generation: _Generation) -> Any:
    """Return the stopping criteria, keeping each row's verdict in ``generation``."""

    class Watched(type(criteria)):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
            verdict = super().__call__(input_ids, scores, **kwargs)
            finished = verdict.clone()
            for criterion in self:
                for name in _ROW_TRACKERS:
                    rows = getattr(criterion, name, None)
                    if rows is not None and len(rows) == len(finished):
                        finished |= torch.tensor(rows, dtype=torch.bool, device=finished.device)
            before = generation.finished
            generation.finished = finished if before is None or len(before) != len(finished) else before | finished
            return verdict

    return Watched(criteria)


def _real(arguments: Mapping[str, Any], shape: tuple[int, int]) -> Tensor | None:
    """Return which tokens of a pass are real by its own mask; None: every one."""
    mask, length = arguments.get("attention_mask"), shape[1]
    if isinstance(mask, Mapping):
        # One per kind of layer; whichever it is, a real token can at least see itself.
        mask = mask.get("full_attention", next((of_kind for of_kind in mask.values() if of_kind is not None), None))
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or not 2 <= mask.ndim <= 4:
        raise LnbenchError(
            f"padding cannot be read from an attention mask of type {type(mask).__name__}: pass the mask of zeros and "
            "ones, [batch, tokens], or load the model with attn_implementation=sdpa"
        )
    if mask.ndim > 2:
        seen = mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask.bool()
        # A token that no token of the pass sees, itself included, is padding.
        mask = seen.flatten(1, -2).any(1)
    # With a cache the mask also covers the past: the tokens of this pass are its last columns, or, where a static cache
    # has room for more, those behind the past.
    past = _cached(arguments.get("past_key_values"))
    end = past + length if past is not None and past + length < mask.shape[1] and _is_static(arguments) else None
    return mask[:, :end][:, -length:].bool().expand(shape)


def _is_static(arguments: Mapping[str, Any]) -> bool:
    return any("Static" in type(layer).__name__ for layer in getattr(arguments["past_key_values"], "layers", ()))


def _cached(cache: Any) -> int | None:
    """Return how many tokens a cache holds; None if it does not count them."""
    if not hasattr(cache, "get_seq_length"):
        return None
    try:
        length = cache.get_seq_length()
    except ValueError:  # every layer is a linear attention or a convolution
        return None
    return None if length is None else int(length)


def _continues(cache: Any) -> bool:
    """Return whether a forward pass with this cache continues a text."""
    if cache is None:
        return False
    if (tokens := _cached(cache)) is not None:
        return tokens > 0
    if layers := getattr(cache, "layers", ()):
        return any(any(getattr(layer, "has_previous_state", {}).values()) for layer in layers)
    return True
