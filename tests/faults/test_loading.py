"""What loading does to a model or takes for granted of a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lnbench import blocks, collect_statistics
from lnbench.lm import LNBenchLM
from lnbench.special_tokens import eos_of
from tests.support.messages import refused
from tests.support.tiny import build
from tests.support.tokenizers import byte_tokenizer

PAIR = ("The river is", " wide")


def ask(lm: LNBenchLM, *pair: Any, kind: str = "loglikelihood") -> Any:
    return getattr(lm, kind)([Instance(kind, {}, pair, 0, ("quiz_hi", 0, 1))])[0]


# lm-eval resizes embeddings as it loads an adapter

ROWS = {"more rows than words": 300, "as many": 259, "a multiple of 64": 320}
"""Rows of the model's embeddings; the tokenizer has 259 words."""


def adapter_on(model: Any, folder: Path, **options: Any) -> str:
    torch.manual_seed(1)
    config = LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False, **options)
    get_peft_model(model, config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_an_adapter_is_loaded_as_peft_loads_it(case: str, model_type: str, tmp_path: Path) -> None:
    base = _saved(tmp_path / "base", model_type, ROWS[case])
    adapter = adapter_on(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    lm = LNBenchLM(base, peft=adapter)
    assert lm.model.get_input_embeddings().weight.shape[0] == ROWS[case]
    ids = torch.tensor([[1, 5, 9, 40]])
    with torch.no_grad():
        assert torch.equal(lm.model(ids).logits, wanted(ids).logits)
    assert ask(lm, *PAIR) == ask(LNBenchLM(wanted, tokenizer=lm.tokenizer), *PAIR)


def test_an_adapter_with_other_embeddings_is_refused(tmp_path: Path) -> None:
    base = _saved(tmp_path / "base", "llama", 300)
    grown = AutoModelForCausalLM.from_pretrained(base)
    grown.resize_token_embeddings(310)
    adapter = adapter_on(grown, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    with refused(adapter, 300, "size mismatch"):
        LNBenchLM(base, peft=adapter)


def _saved(folder: Path, model_type: str, rows: int, **tokenizer: Any) -> str:
    model = build(model_type)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    byte_tokenizer(**tokenizer).save_pretrained(folder)
    return str(folder)


# Special tokens taken for granted

WITHOUT: dict[str, dict[str, bool]] = {
    "none at all": {"bos": False, "eos": False, "pad": False},
    "no padding": {"pad": False},
    "BOS alone": {"eos": False, "pad": False},
    "EOS alone": {"bos": False, "pad": False},
    "no EOS": {"eos": False},
}


@pytest.mark.parametrize("case", WITHOUT)
def test_what_needs_no_special_token_works_without(case: str, tmp_path: Path) -> None:
    rows = 256 + sum({"bos": True, "eos": True, "pad": True, **WITHOUT[case]}.values())
    lm = LNBenchLM(_saved(tmp_path / "model", "llama", rows, **WITHOUT[case]), batch_size=2)
    assert lm.tokenizer.pad_token_id < rows
    assert ask(lm, *PAIR)[0] < 0
    until = {"until": ["\n"], "max_gen_toks": 4}
    requests = [Instance("generate_until", {}, (text, dict(until)), 0, ("t", 0, 1)) for text in ("a", "a longer one")]
    together = lm.generate_until(requests)
    assert together == [lm.generate_until([request])[0] for request in requests]


@pytest.mark.parametrize(("kind", "arguments"), [("loglikelihood", ("", "a")), ("loglikelihood_rolling", ("a",))])
def test_the_token_that_is_needed_is_named(kind: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    folder = _saved(tmp_path / "model", "llama", 256, **WITHOUT["none at all"])
    with refused("BOS", "EOS", "prefix_token_id=…"):
        ask(LNBenchLM(folder), *arguments, kind=kind)
    assert ask(LNBenchLM(folder, prefix_token_id=7), *arguments, kind=kind)
    with refused("eos_token"):
        eos_of(byte_tokenizer(**WITHOUT["none at all"]), "this")


@pytest.mark.parametrize(
    ("case", "given", "warned"),
    [
        ("none at all", {}, True),
        ("none at all", {"prefix_token_id": 7}, False),
        ("BOS alone", {}, False),
        ("EOS alone", {}, False),
    ],
)
def test_the_token_that_may_be_needed_is_named_before_the_weights_are_loaded(
    case: str, given: dict[str, int], warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = 256 + sum({"bos": True, "eos": True, "pad": True, **WITHOUT[case]}.values())
    folder = Path(_saved(tmp_path / "model", "llama", rows, **WITHOUT[case]))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(Exception, match=r"header|safetensors|file"):
        LNBenchLM(str(folder), **given)
    assert ("prefix_token_id" in caplog.text) == warned


@pytest.mark.parametrize("pad", [10_000, 259])
def test_an_id_that_the_model_does_not_have_is_not_padded_with(pad: int, tmp_path: Path) -> None:
    folder = _saved(tmp_path / "model", "llama", 259)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(pad - 258)])
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    assert tokenizer.pad_token_id == pad
    lm = LNBenchLM(folder, tokenizer=tokenizer, batch_size=2)
    assert lm.tokenizer.pad_token_id < 259
    texts = blocks(["a", "a longer text"], lm.tokenizer, 16, mode="truncate")
    assert collect_statistics(lm.model, texts, language="en").tokens == 14
