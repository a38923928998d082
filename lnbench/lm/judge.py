"""A judge that rates answers: any model of lm-eval, or a local or packaged one by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import MODEL_REGISTRY, get_model

from lnbench.errors import LnbenchError
from lnbench.files import fingerprint, write_text
from lnbench.language_control.judging import instruction, rating_of
from lnbench.lm.lnbench_lm import LNBenchLM


class Judge:
    """A model that rates relevance and coherence from 0 to 2; what it said is kept in a file, and not asked again.

    Args:
        name: A model of lm-eval (``hf``, ``local-chat-completions`` …), or what lnbench's own takes as ``pretrained``.
        arguments: Its ``--model_args``.
        file: JSON Lines with what was said before, and where what is said is added; None: nothing is kept.

    Attributes:
        generation: lm-eval's ``generation_kwargs``.

    Raises:
        LnbenchError: the file cannot be read.
    """

    generation: Mapping[str, Any] = MappingProxyType({"until": [], "do_sample": False, "max_gen_toks": 256})

    def __init__(self, name: str, arguments: Mapping[str, Any], file: Path | None = None) -> None:
        self.name, self._arguments, self._file = name, dict(arguments), file
        self._said = {} if file is None or not file.exists() else _read(file)
        self._lm: LM | None = None

    def rate(self, asked: Sequence[tuple[str, str, str]]) -> list[int | None]:
        """Return the rating of each ``(question, answer, source language)``; None where what it says holds none."""
        texts = [instruction(question, answer, source) for question, answer, source in asked]
        keys = [fingerprint([self.name, self._arguments, dict(self.generation), text]) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._said}
        if new:
            self._said |= dict(zip(new, self._generate(list(new.values())), strict=True))
            if self._file is not None:
                lines = (json.dumps({"key": key, "said": said}, ensure_ascii=False) for key, said in self._said.items())
                write_text(self._file, "".join(f"{line}\n" for line in lines))
        return [rating_of(self._said[key]) for key in keys]

    def _generate(self, texts: Sequence[str]) -> list[str]:
        if self._lm is None:
            self._lm = self._load()
        prompts = [_framed(self._lm, text) for text in texts]
        requests = [
            Instance("generate_until", {}, (prompt, dict(self.generation)), 0, metadata=("judge", number, 1))
            for number, prompt in enumerate(prompts)
        ]
        return list(self._lm.generate_until(requests))

    def _load(self) -> LM:
        if self.name in MODEL_REGISTRY and self.name != "lnbench":
            model: LM = get_model(self.name).create_from_arg_obj(self._arguments)
            return model
        return LNBenchLM(**({} if self.name == "lnbench" else {"pretrained": self.name}), **self._arguments)


def _framed(lm: Any, text: str) -> Any:
    """Return a request in the model's chat template, where it has one."""
    is_local = hasattr(lm, "tokenizer")
    templated = (
        getattr(lm.tokenizer, "chat_template", None) is not None
        if is_local and lm.tokenizer is not None
        else type(lm).apply_chat_template is not LM.apply_chat_template
    )
    return lm.apply_chat_template([{"role": "user", "content": text}]) if templated else text


def _read(file: Path) -> dict[str, str]:
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {str(row["key"]): str(row["said"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LnbenchError(f"{file} is not a file of ratings ({error}); name another, or delete it") from error
