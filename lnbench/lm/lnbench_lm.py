"""lm-eval's ``hf`` model with overrides: everything it takes and answers, plus the arguments of an Experiment."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import CacheHook

from lnbench._version import __version__
from lnbench.errors import LnbenchError, unknown
from lnbench.files import fingerprint, warn_once
from lnbench.host import get_host
from lnbench.hub_errors import hub_error
from lnbench.lm.answers import AnswerCache
from lnbench.lm.asked import put_in_frame, with_likelihoods
from lnbench.lm.encoding import EncodingLM
from lnbench.lm.experiment import Artifacts, Experiment, OverrideCounts
from lnbench.lm.head import ClassificationHead, check_choices, read_hidden
from lnbench.lm.overridden import overridden
from lnbench.lm.prefixes import Family, SharedPrefixes, batches, families
from lnbench.lm.prompts import PromptAccount
from lnbench.lm.scoring import (
    Batch,
    TokenRequest,
    TokenRow,
    collate,
    first_runs,
    may_share,
    read_scores,
    score,
    shared_row,
)
from lnbench.model.forward_passes import both
from lnbench.model.locate import locate
from lnbench.model.logits import logits_at, pad_right
from lnbench.model.packaged import DEFAULT_MODEL, resolve
from lnbench.model.self_check import SELF_CHECK
from lnbench.model.sites import TENSOR_PARALLEL, Sites, transformer_body
from lnbench.overrides import Applied, apply
from lnbench.progress import Bar
from lnbench.special_tokens import adds_bos, cut_left, follow_bos, with_prefix
from lnbench.statistics import describe_model
from lnbench.task_languages import AUTO, language_of

log = logging.getLogger(__name__)
_CPU_BATCH_TOKENS = 2048
_ANSWER_SETTINGS = (
    *("max_length", "add_bos_token", "prefix_token_id", "truncation", "softmax_dtype", "mixed_precision_dtype"),
    *("think_end_token", "chat_template_args"),
)
"""Attributes of lm-eval's ``hf`` that its answers depend on."""


class LNBenchLM(EncodingLM):
    """A Hugging Face causal LM whose language-specific neurons are overridden while lm-eval measures it.

    Takes every argument of lm-eval's ``hf`` and those of :class:`~lnbench.lm.experiment.Experiment`. With
    ``intervention=none`` it answers exactly as ``hf`` does, but where ``hf`` gives a wrong number or none at all:
    docs/howto/lm-eval.md lists these differences.

    Raises:
        LnbenchError: an unknown argument value, an artifact of another model, an unsupported architecture; and while
            answering, an intervention that changed no token.
    """

    def __init__(self, pretrained: Any = DEFAULT_MODEL, **options: Any) -> None:
        own = {name: options.pop(name) for name in Experiment.model_fields if name in options}
        experiment, hf = Experiment(**{name: value for name, value in own.items() if value is not None}), options
        if experiment.changes_model and hf.get("tp_plan") is not None:
            raise LnbenchError(TENSOR_PARALLEL)
        if not isinstance(pretrained, str) and (
            ignored := [key for key in ("peft", "gguf_file", "delta") if hf.get(key)]
        ):
            raise LnbenchError(
                f"{', '.join(ignored)} cannot be applied to a model object; load it into the model first, or pass "
                "pretrained as a name"
            )
        experiment.check_files()
        self._prefix_given = hf.get("prefix_token_id")
        self._named = pretrained if isinstance(pretrained, str) else None
        if hf.get("device") is None:
            # hf's own default is CUDA whether there is one or not.
            hf["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        source = resolve(pretrained) if isinstance(pretrained, str) else pretrained
        try:
            super().__init__(pretrained=source, **hf)
        except OSError as error:
            if not isinstance(source, str) or Path(source).exists():
                raise
            raise hub_error(f"the model {source}", error) from error
        if self.backend != "causal":
            raise LnbenchError("lnbench works on causal language models; this one is an encoder-decoder")
        adapters = getattr(self.model, "peft_config", {}).values()
        if experiment.changes_model and any(getattr(config, "is_prompt_learning", False) for config in adapters):
            raise LnbenchError(
                "this PEFT adapter prepends virtual tokens (prompt or prefix tuning), which are no tokens of any "
                "language; overrides work with adapters that change weights, such as LoRA"
            )
        self._sharing: dict[str, Any] = {}
        if self.add_bos_token is not None:
            follow_bos(self.tokenizer, self.add_bos_token)
        self._applied: Applied | None = None
        self._positions = "all"
        """Where the present override is written."""
        self._documents: list[tuple[str, int]] = []
        self._longest: int | None = None
        self._templated = False
        self.last_batch_size: int | None = None
        """The batch size that was found last, after :meth:`remember`."""
        self.configure(experiment)

    def configure(self, experiment: Experiment) -> None:
        """Take up another experiment on the loaded model, keeping the Statistics and NeuronSets made so far.

        Raises:
            LnbenchError: as the constructor.
        """
        self.experiment = experiment
        self.accounts: dict[str, OverrideCounts] = defaultdict(OverrideCounts)
        self.prompts = PromptAccount()
        self._plans: dict[str, Any] = {}
        self._classifier = ClassificationHead.load(experiment.head) if experiment.head else None
        if experiment.sites.read != experiment.sites.write and experiment.changes_model:
            log.warning(
                "site=paper reads values before the non-linearity and writes them after it, as the published code "
                "does; many are values that the neurons can never take there"
            )
        if experiment.changes_model or experiment.neurons is not None:
            neurons = self.artifacts.neurons(experiment)
            if experiment.changes_model and experiment.language != AUTO:
                if experiment.language not in neurons.languages:
                    raise unknown("language", experiment.language, neurons.languages, "This NeuronSet has no others")
                self._plan(experiment.language)

    def remember(self) -> None:
        """Tokenise each text, and find a batch size for each length, once from now on: many cells ask for the same."""
        self._pair = lru_cache(maxsize=1 << 16)(self._pair)  # type: ignore[method-assign]
        detect, sizes = self._detect_batch_size, dict[int | None, int]()

        def detect_once(requests: Sequence[Any] | None = None, pos: int = 0) -> int:
            longest = len(self._row(requests[pos]).tokens) if requests else self._longest
            if longest not in sizes:
                sizes[longest] = int(detect(requests, pos))
            self.last_batch_size = sizes[longest]
            return sizes[longest]

        self._detect_batch_size = detect_once  # type: ignore[method-assign]

    @cached_property
    def sites(self) -> Sites:
        """Where the model's neurons are."""
        return locate(self.model)

    @cached_property
    def artifacts(self) -> Artifacts:
        """The Statistics and NeuronSets of the loaded model."""
        return Artifacts(self.model, self.tokenizer, self.sites, self.described)

    @cached_property
    def described(self) -> dict[str, Any]:
        """See :func:`lnbench.statistics.describe_model`."""
        return describe_model(self.model, self.tokenizer)

    # What lm-eval asks for

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """See lm-eval. With a classification head, a choice's likelihood is its class's probability.

        Raises:
            LnbenchError: an answer has no token, or more than the model has positions.
        """
        if self._classifier is not None:
            check_choices(requests, len(self._classifier.bias))
            self._classifier.warn_of_other_prompts({str(request.task_name) for request in requests})
            self._count_prompts(requests, self._classifier.pooling.length or self.max_length)
            return self._answer("loglikelihood", requests, self._classify)
        if self.enable_thinking:
            tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
            raise LnbenchError(f"enable_thinking=True works with generation only, not with the likelihoods of {tasks}")
        encoded = {id(request): self._scored(request) for request in Bar(requests, "Tokenizing", disable=disable_tqdm)}
        self.prompts.warn(sorted({str(request.task_name) for request in requests}), self.max_length)

        def run(asked: list[Any]) -> list[tuple[float, bool]]:
            tokens = [(request.args, *encoded[id(request)]) for request in asked]
            return self._loglikelihood_tokens(tokens, disable_tqdm=disable_tqdm)

        return self._answer("loglikelihood", requests, run)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """See lm-eval. A text begins with one prefix token: upstream puts one before the tokenizer's own BOS, too.

        Raises:
            LnbenchError: a text has no token.
        """
        with self._rolling(requests):
            run = partial(super().loglikelihood_rolling, disable_tqdm=disable_tqdm)
            return self._answer("loglikelihood_rolling", requests, run)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """See lm-eval. Open questions are framed, and answers to a pair's questions come with their likelihood.

        Raises:
            LnbenchError: more tokens are to be generated than the model has positions.
        """
        put_in_frame(self, requests)
        self._count_generations(requests)
        run = partial(super().generate_until, disable_tqdm=disable_tqdm)
        answers = self._answer("generate_until", requests, run)
        # One at a time, as an answer's logits fill more memory than the model.
        score = partial(self._loglikelihood_tokens, disable_tqdm=True, override_bs=1)
        return with_likelihoods(requests, answers, self._pair, score, self.max_length)

    def apply_chat_template(self, *args: Any, **options: Any) -> str:
        """See lm-eval. Where neurons were found on raw text, overriding them then warns."""
        self._templated = True
        return str(super().apply_chat_template(*args, **options))

    def get_model_info(self) -> dict[str, Any]:
        """Return lm-eval's model information, and under ``lnbench`` what was applied and to what."""
        info: dict[str, Any] = super().get_model_info()
        experiment = self.experiment
        described: dict[str, Any] = {
            "version": __version__,
            "pretrained": self._named,
            **{name: value for name, value in experiment.model_dump().items() if value not in (None, ())},
            "bos": adds_bos(self.tokenizer, self.add_bos_token),
            "prompts": self.prompts.summary(),
        }
        if experiment.share_prefix:
            described["share_prefix"] = self._sharing or {"used": False}
        if experiment.changes_model:
            neurons = self.artifacts.neurons(experiment)
            described |= {
                "model": self.described,
                SELF_CHECK: self.sites.check.summary(),
                "intervention_parameters": get_host().canonical("intervention", experiment.intervention),
                "neuron_set": {
                    "fingerprint": neurons.fingerprint,
                    "selector": neurons.selector,
                    "file": str(self.artifacts.neurons_file(experiment, neurons)),
                    "neurons": {language: neurons.count(language) for language in neurons.languages},
                    "account": None if neurons.account is None else neurons.account.model_dump(),
                },
                "statistics_fingerprints": {
                    language: statistics.fingerprint if statistics is not None else None
                    for language, (_, statistics) in self._plans.items()
                },
                "read_site": experiment.sites.read,
                "write_site": experiment.sites.write,
                "applied": {language: account.summary() for language, account in sorted(self.accounts.items())},
            }
        if self._classifier is not None:
            described["head_sha256"] = self._classifier.sha256
        return info | {"lnbench": described}

    def overridden(self) -> Iterator[str]:
        """Yield what was overridden since the experiment was taken up, in one line per language."""
        if self.accounts:
            statistics = {language: read for language, (_, read) in self._plans.items()}
            yield from overridden(self.experiment, self.artifacts.neurons(self.experiment), statistics, self.accounts)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take lm-eval's ``--use_cache`` file, and keep this model's answers apart in it."""
        self.cache_hook = cache_hook if cache_hook.dbdict is None else AnswerCache(cache_hook.dbdict)

    # How it is done

    def _answer(self, kind: str, requests: list[Any], run: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """Answer requests language by language, each under its own override, in the order asked."""
        answers: list[Any] = [None] * len(requests)
        groups: dict[str | None, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[self._language(request)].append(number)
        for language, numbers in groups.items():
            left = self._recall(kind, language, requests, numbers, answers)
            if not left:
                continue
            asked = [requests[number] for number in left]
            if self.batch_size == "auto":
                texts = [[part for part in request.args if isinstance(part, str)] for request in asked]
                longest = max(sum(len(self.tok_encode(part)) for part in parts) for parts in texts)
                generated = self.max_gen_toks if kind == "generate_until" else 0
                self._longest = min(self.max_length, longest + generated)
            documents = [(str(request.task_name), int(request.doc_id)) for request in asked]
            self._documents = documents if kind == "loglikelihood" else []
            with self._overriding(language, asked):
                for number, answer in zip(left, run(asked), strict=True):
                    answers[number] = answer
        return answers

    def _language(self, request: Any) -> str | None:
        if not self.experiment.changes_model:
            return None
        if self.experiment.language != AUTO:
            return self.experiment.language
        return language_of(request, self.artifacts.neurons(self.experiment).languages)

    def _recall(
        self, kind: str, language: str | None, requests: list[Any], numbers: list[int], answers: list[Any]
    ) -> list[int]:
        """Fill in what ``--use_cache`` kept; return the requests that are left."""
        hook = self.cache_hook
        if not isinstance(hook, AnswerCache):
            return numbers
        hook.configuration = self._configuration(language)
        left = []
        for number in numbers:
            arguments = requests[number].args
            sampled = kind == "generate_until" and arguments[1].get("do_sample", False)
            answers[number] = None if sampled else hook.find(kind, arguments)
            if answers[number] is None:
                left.append(number)
        if language is not None:
            self.accounts[language].cached_answers += len(numbers) - len(left)
        return left

    def _plan(self, language: str) -> Any:
        if language not in self._plans:
            self._plans[language] = self.artifacts.override(self.experiment, language)
        return self._plans[language]

    @contextmanager
    def _overriding(self, language: str | None, requests: Sequence[Any]) -> Iterator[None]:
        if language is None:
            yield
            return
        change, statistics = self._plan(language)
        neurons = self.artifacts.neurons(self.experiment)
        if warning := neurons.format_warning(self._templated, statistics.chat if statistics else None):
            warn_once(f"{language}: {warning}")
        site, positions = self.experiment.sites.write, self.experiment.positions
        with apply(
            self.model, change, statistics=statistics, site=site, positions=positions, sites=self.sites
        ) as applied:
            self._applied, self._positions = applied, both(positions, change.positions)
            try:
                yield
            finally:
                self._applied, self._positions = None, "all"
        self.accounts[language].add(applied)
        if applied.tokens == 0:
            tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
            raise LnbenchError(
                f"intervention {self.experiment.intervention!r} changed no token of {tasks}: "
                + (
                    f"positions={self.experiment.positions} leaves nothing to change there; use positions=all"
                    if self.experiment.positions != "all"
                    else f"it overrides no neuron of {language!r}"
                )
            )

    def _row(self, request: TokenRequest) -> TokenRow:
        return TokenRow.of(request, self.max_length, self.prefix_token_id)

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if self._shares(requests):
            return self._loglikelihood_shared(requests, disable_tqdm, override_bs)
        share = self.logits_cache and (self._applied is None or may_share(requests, self._positions))
        counts = self._counts(requests, share)
        collator = collate(requests, share=share)
        auto = self.batch_size == "auto"
        size = override_bs or (0 if auto else self.batch_size)
        schedule = self._batch_scheduler if auto and not override_bs and requests else None
        if schedule is not None:
            self.batch_sizes: dict[int, int] = {}
        answers = []
        bar = Bar(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Running loglikelihood requests")
        with bar:
            for chunk in collator.get_batched(n=size, batch_fn=schedule):
                batch = Batch.of([self._row(request) for request in chunk], self.device)
                counted = pad_right([counts[_row_key(request, share)] for request in chunk])[0] if counts else None
                with self._reading(batch.real(self._positions), counted):
                    logits = logits_at(self.model, batch.ids, batch.scored)
                for strings, answer in read_scores(collator, chunk, batch, logits, self.softmax_dtype):
                    answers.append(answer)
                    if strings is not None:
                        self.cache_hook.add_partial("loglikelihood", strings, answer)
                    bar.update(1)
        return list(collator.get_original(answers))

    def _shares(self, requests: Sequence[TokenRequest]) -> bool:
        # Without documents these are the windows of a rolling likelihood, which have nothing in common.
        known = len(self._documents) == len(requests)
        return self.experiment.share_prefix and known and self._sharing.get("used", True)

    def _loglikelihood_shared(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool, override_bs: int | None
    ) -> list[tuple[float, bool]]:
        """Answer requests with what their documents have in common run once."""
        positions = self._positions
        rows = [self._row(request) for request in requests]
        counts = first_runs(rows, self._documents, positions)
        size = override_bs or (self._detect_batch_size() if self.batch_size == "auto" else self.batch_size)
        shared = SharedPrefixes(self.model, self.device, positions, self._reading)
        answers: list[Any] = [None] * len(requests)
        bar = Bar(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Running loglikelihood requests")
        with bar:
            for batch in batches(families(rows, self._documents, positions), size):
                logits = self._whole(batch, counts) if batch[0].prefix == 0 else self._continued(shared, batch, counts)
                for number, of_row in logits.items():
                    strings, _, continuation = requests[number]
                    answers[number] = score(of_row, continuation, self.softmax_dtype)
                    if strings is not None:
                        self.cache_hook.add_partial("loglikelihood", strings, answers[number])
                    bar.update(1)
        return answers

    def _continued(
        self, shared: SharedPrefixes, batch: Sequence[Family], counts: Sequence[torch.Tensor]
    ) -> dict[int, torch.Tensor]:
        """Return logits that share prefixes, if the model's first batch equals whole forward passes; else warn once."""
        if not self._sharing.get("used", True):
            return self._whole(batch, counts)
        logits = shared.logits(batch, counts)
        if "used" not in self._sharing:
            apart, tolerance = shared.check(batch, logits), shared.tolerance(next(iter(logits.values())))
            self._sharing = {"used": apart <= tolerance, "nats_apart": apart, "tolerance": tolerance}
            if not self._sharing["used"]:
                log.warning(
                    "share_prefix: continuing a prompt from this model's cache moves a token's likelihood by %.2g nats "
                    "(tolerance %.2g), so every request is run whole",
                    *(apart, tolerance),
                )
                return self._whole(batch, [torch.zeros_like(count) for count in counts])
        return logits

    def _whole(self, batch: Sequence[Family], counts: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
        """Run rows whole; return their logits by number."""
        numbers = [number for family in batch for number in family.numbers]
        run = Batch.of([row for family in batch for row in family.rows], self.device)
        counted = pad_right([counts[number] for number in numbers])[0]
        with self._reading(run.real(self._positions), counted):
            logits = logits_at(self.model, run.ids, run.scored)
        return dict(zip(numbers, torch.split(logits, [row.scored for row in run.rows]), strict=True))

    def _counts(self, requests: Sequence[TokenRequest], share: bool) -> dict[Any, torch.Tensor]:
        """Return, per row that is run, how many documents' own tokens each of its tokens is (once per document)."""
        if self._applied is None:
            return {}
        rows = [self._row(request) for request in requests]
        # A text that is scored in several windows is a request of its own, and its windows do not overlap.
        documents = self._documents if len(self._documents) == len(requests) else range(len(requests))
        counts: dict[Any, torch.Tensor] = {}
        for request, run in zip(requests, first_runs(rows, documents, self._positions), strict=True):
            key = _row_key(request, share)
            counts[key] = counts[key] + run if key in counts else run
        return counts

    def _classify(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Score each document's choices by the classification head, on one position of their shared context."""
        assert self._classifier is not None
        pooling = self._classifier.pooling
        limit = pooling.length or self.max_length
        contexts = sorted({request.args[0] for request in requests}, key=lambda text: (-len(text), text))
        encoded = {
            text: cut_left(self.tok_encode(text), limit, self.prefix_token_id)
            or with_prefix([], self.prefix_token_id, "an empty prompt")
            for text in contexts
        }
        size = self._detect_batch_size() if self.batch_size == "auto" else self.batch_size
        documents = Counter(text for _, _, text in {(one.task_name, one.doc_id, one.args[0]) for one in requests})
        scores: dict[str, torch.Tensor] = {}
        for start in Bar(range(0, len(contexts), size), desc="Running classification requests", disable=self.rank != 0):
            chunk = contexts[start : start + size]
            texts = pooling.lay_out([encoded[text] for text in chunk], self.device)
            batch = Batch([TokenRow(encoded[text], 1) for text in chunk], texts.ids)
            counted = batch.real(self._positions).long()
            counted *= torch.tensor([[documents[text]] for text in chunk], device=counted.device)
            real = batch.real(self._positions)
            if "generated" not in self._positions:
                # The head may read a padding token, which is then changed.
                real[torch.arange(len(real), device=real.device), texts.read] = True
            with self._reading(real, counted):
                pooled = read_hidden(transformer_body(self.sites.model), texts)
            scores |= dict(zip(chunk, self._classifier.log_probabilities(pooled).cpu(), strict=True))
        answers = []
        for request in requests:
            of_classes = scores[request.args[0]]
            answer = (float(of_classes[request.idx]), int(of_classes.argmax()) == request.idx)
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
            answers.append(answer)
        return answers

    @contextmanager
    def _reading(self, real: torch.Tensor, counted: torch.Tensor | None) -> Iterator[None]:
        """Let the forward pass in this block change the ``real`` tokens, and count them as ``counted`` says."""
        dtype = self.mixed_precision_dtype
        precision = nullcontext() if dtype is None else torch.autocast(device_type=self.device.type, dtype=dtype)
        if self._applied is not None:
            self._applied.real, self._applied.counted = real, counted
        try:
            with torch.no_grad(), precision:
                yield
        finally:
            if self._applied is not None:
                self._applied.real = self._applied.counted = None

    def _detect_batch_size(self, requests: Sequence[Any] | None = None, pos: int = 0) -> int:
        """Detect as lm-eval does, but by the longest request, not the model's full length; by rule on a CPU."""
        longest = self._longest or self.max_length
        if requests:
            longest = len(self._row(requests[pos]).tokens)
        if self.device.type == "cpu":
            # Trying sizes until memory runs out would stop a CPU process, and larger batches are no faster there.
            return int(max(1, min(self.max_batch_size, _CPU_BATCH_TOKENS // max(1, longest))))
        with self._applied.paused() if self._applied is not None else nullcontext():
            return int(super()._detect_batch_size([(None, [0] * longest, [0])], 0))

    def _configuration(self, language: str | None) -> str:
        """Return everything besides the request that an answer depends on, as a fingerprint for the answer cache."""
        settings = [str(getattr(self, name, None)) for name in _ANSWER_SETTINGS]
        parts: list[Any] = [self.described, settings, self._classifier.sha256 if self._classifier else None]
        if language is not None:
            parts += [self._plan(language)[0].fingerprint, self.experiment.sites.write, self.experiment.positions]
        return fingerprint(parts)


def _row_key(request: TokenRequest, share: bool) -> Any:
    return shared_row(request) if share else id(request)
