"""A small world in which the documentation's commands run: tiny things under the names that the pages use."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

from lnbench import figures
from lnbench._lm_eval_hook import register
from lnbench.cli import app
from lnbench.demo import DATA
from lnbench.files import tasks_dir
from tests.support.docs_commands import paths_read
from tests.support.docs_pages import DOCS
from tests.support.tiny import build, tokenizer

LANGUAGES = {"en": "en", "es": "en", "fr": "en", "vi": "vi", "hi": "hi", "ur": "ur", "zh": "zh"}
"""Languages of the pages → the embedded text that stands for each."""
_LETTERS = {"en": "wfjz", "vi": "ếăđưá", "hi": "अ", "ur": "اکیےںہ", "zh": "你的我是世界中在"}
_ROWS = 6
_ALWAYS = {
    ("lnbench", "demo"): "--limit 1 --tokens 500",
    ("lnbench", "stats"): "--tokens 500 --length 64",
    ("lnbench", "eval"): "--limit 1",
    ("lnbench", "neurons", "stability"): "--tokens 800 --length 64",
    ("lnbench", "neurons", "explain"): "--tokens 300 --length 64 --top 2 --output-tokens 3",
    ("lnbench", "generate"): "--max-new-tokens 4 --corpus-tokens 500",
    ("lnbench", "ppl"): "--tokens 300 --length 64 --controls 1 --corpus-tokens 500",
    ("lnbench", "reproduce"): "--tokens 500 --limit 1 --set ppl.tokens=128 --set ppl.controls=0 "
    "--set xnli.settings.max_steps=1",
    ("lnbench", "figures"): "--format svg",
    ("lnbench", "finetune"): "--set max_steps=1 --set examples=8 --set batch_size=4 --set validation_examples=2 "
    "--set max_length=64",
    ("lm_eval",): "--limit 1",
}
"""Options that make a command small, by how it begins, in place of those that the page has."""
_NOT_SMALLER = ("merge", "show", "inspect", "list", "--help")
"""Words behind which a command takes none of them."""
PREPARED = {
    "stats": "lnbench stats --corpus 'data/{lang}.jsonl.gz' --languages en+vi+hi+ur+zh --out stats",
    "machine1/stats": "lnbench stats --shard 1/2 --out machine1/stats",
    "machine2/stats": "lnbench stats --shard 2/2 --out machine2/stats",
    "lape.json": "lnbench select lape:top_fraction=0.01 --statistics stats --out lape.json",
    "act_prob.json": "lnbench select act_prob --statistics stats --out act_prob.json",
    "neurons.json": "lnbench select lape:top_fraction=0.01 --statistics stats --out neurons.json",
    "control.json": "lnbench select random:like=lape.json --statistics stats --out control.json",
    "adapter": "lnbench finetune masked_lora --neurons lape.json --languages en+hi --preset xnli-paper --out adapter",
    "runs/demo": "lnbench demo",
    "runs/first": "lnbench sweep sweep.yaml --out runs/first",
    "runs/llama": "lnbench sweep sweep.yaml --out runs/llama",
    "runs/qwen": "lnbench sweep qwen.yaml --out runs/qwen",
}
"""What a page takes to be there, and the command that makes it."""
_SWEEP = {
    "selectors": ["lape"],
    "interventions": ["none", "zero"],
    "languages": ["hi", "zh"],
    "tasks": ["lnbench_demo_nli_{lang}"],
    "limit": 1,
    "batch_size": 4,
}


class World:
    """A folder with data, and a copy of it for each page.

    Args:
        folder: An empty folder.
        model: A tiny model's folder.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self._done: set[str] = set()
        self.prepared: set[Path] = set()
        """What was made for a command to read, and not by the page itself."""
        self.data = folder / "data"
        _write_texts(self.data)
        _write_benchmarks(self.data)

    def page(self, name: str) -> Path:
        """A folder to run a page's commands in."""
        here = self.folder / name.replace("/", "-")
        here.mkdir()
        (here / "data").symlink_to(self.data)
        (here / "docs/examples").mkdir(parents=True)
        for file in ("sweep.yaml", *(f"docs/examples/{path.name}" for path in (DOCS / "examples").glob("*.yaml"))):
            _write_json(here / file, _SWEEP)
        _write_json(here / "qwen.yaml", _SWEEP | {"models": ["Qwen/Qwen3-0.6B-Base"]})
        _write_own_task(here)
        _write_completions(here / "completions.jsonl.gz")
        torch.save([[torch.tensor([language])] * 2 for language in range(7)], here / "LLaMA-2-7B.neuron.pth")
        return here

    def run_once(self, words: Sequence[str]) -> None:
        """As :meth:`run`, for a command that has not run on any page; what it writes is made where it is needed."""
        if (small := shlex.join(smaller(words))) not in self._done:
            self.run(words)
            self._done.add(small)

    def run(self, words: Sequence[str]) -> None:
        """Run one command of a page in this process, small, in the present folder.

        Raises:
            AssertionError: it ended with another exit code than 0.
        """
        self._prepare(words)
        words = [str(tasks_dir()) if word == "$(lnbench tasks)" else word for word in smaller(words)]
        if words[0] == "lm_eval":
            _lm_eval(words)
            return
        ended = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output

    def _prepare(self, words: Sequence[str]) -> None:
        """Make what the command reads and no earlier one has made."""
        read = paths_read(words)
        for path, command in PREPARED.items():
            if any(f"{one}/".startswith(f"{path}/") for one in read) and not Path(path).exists():
                kept = self.folder / "prepared" / path
                if not kept.exists():
                    self.run(shlex.split(command))
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    (shutil.copytree if Path(path).is_dir() else shutil.copy)(path, kept)
                else:
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    (shutil.copytree if kept.is_dir() else shutil.copy)(kept, path)
                self.prepared.add(Path(path).absolute())


def smaller(words: Sequence[str]) -> list[str]:
    """A command with the options that keep it small."""
    for beginning, text in _ALWAYS.items():
        if tuple(words[: len(beginning)]) == beginning and not any(word in words for word in _NOT_SMALLER):
            options = text.split()
            replaced = {option for option in options if option.startswith("--")} - {"--set"}
            kept = [word for before, word in pairwise(["", *words]) if not {before, word} & replaced]
            return [*kept, *options]
    return list(words)


def _lm_eval(words: Sequence[str]) -> None:
    register()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(words))
        cli_evaluate()


def substitutes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every name that a page uses stand for what the world has."""
    monkeypatch.setenv("LNBENCH_DATA", str(world.data))
    monkeypatch.setenv("LNBENCH_CACHE", str(world.folder / "cache"))
    monkeypatch.setattr("lnbench.lm.lnbench_lm.resolve", lambda name: world.model)
    save = figures.save
    monkeypatch.setattr(
        figures,
        "save",
        lambda figure, folder, formats=("svg",), width="page": save(figure, folder, formats, width),
    )
    monkeypatch.setattr("lnbench.quickstart.SELECTORS", ("lape",))
    monkeypatch.setattr("lnbench.quickstart.INTERVENTIONS", ("none", "zero"))
    _without_lm_evals_tasks(monkeypatch)
    _with_a_hub(world.data, monkeypatch)


def _without_lm_evals_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's own thousands of tasks take longer to list than a page takes to run."""
    construct = TaskManager.__init__

    @wraps(construct)
    def ours_alone(self: Any, *args: Any, include_defaults: bool = False, **options: Any) -> None:
        construct(self, *args, include_defaults=False, **options)

    monkeypatch.setattr(TaskManager, "__init__", ours_alone)


def _with_a_hub(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = datasets.load_dataset

    def from_the_hub(*named: Any, **options: Any) -> Any:
        if named[:1] != ("wikimedia/wikipedia",):
            return load(*named, **options)
        with gzip.open(data / f"{named[1].rpartition('.')[2]}.jsonl.gz", "rt", encoding="utf-8") as lines:
            return datasets.Dataset.from_list([json.loads(line) for line in lines]).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", from_the_hub)


def _write_texts(data: Path) -> None:
    data.mkdir(parents=True)
    for language, source in LANGUAGES.items():
        lines = (DATA / "corpus" / f"{source}.jsonl").read_text(encoding="utf-8").splitlines()[:_ROWS]
        for folder in (data, data / "corpus"):
            _write_rows(folder / f"{language}.jsonl.gz", [json.loads(line) for line in lines])


def _write_benchmarks(data: Path) -> None:
    pairs = [{"premise": f"Premise {i}.", "hypothesis": f"परिकल्पना {i}", "label": i % 3} for i in range(3 * _ROWS)]
    questions = [
        {
            "id": f"q{i}",
            "context": f"In {1900 + i} the river rose by {i} metres.",
            "question": "When did the river rise?",
            "answers": {"text": [f"In {1900 + i}"], "answer_start": [0]},
        }
        for i in range(3 * _ROWS)
    ]
    for language in LANGUAGES:
        for split in ("train", "validation", "test"):
            _write_rows(data / f"xnli/{language}.{split}.jsonl.gz", pairs)
        _write_rows(data / f"xquad/{language}.jsonl.gz", questions)
    _write_rows(data / "squad/en.train.jsonl.gz", questions)


def _write_completions(path: Path) -> None:
    text = json.loads((DATA / "corpus/hi.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    row = {"task": "crosslingual", "source": "okapi", "language": "hi", "completion": text}
    path.write_bytes(gzip.compress(json.dumps(row).encode()))


def _write_own_task(here: Path) -> None:
    """The data of the task that a page writes for itself."""
    rows = [{"question": f"क्या {i} सम है?", "choices": ["हाँ", "नहीं"], "answer": i % 2} for i in range(_ROWS)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (here / "my_tasks").mkdir()
    (here / "my_tasks/hi.jsonl").write_text(text, encoding="utf-8")


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def save_model(folder: Path) -> str:
    """A model of 1,024 neurons, in which LAPE finds two for each language: they tell how its letters begin."""
    # In 4 bits, sizes must be multiples of 32.
    model = build("llama", hidden_size=64, head_dim=16, intermediate_size=512, num_hidden_layers=2)
    letters = tokenizer()
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, : len(_LETTERS)] = 0
        for place, text in enumerate(_LETTERS.values()):
            embedding[[letters(letter)["input_ids"][1] for letter in text], place] = 2
        for layer in model.model.layers:
            layer.mlp.gate_proj.weight.zero_()[range(len(_LETTERS)), range(len(_LETTERS))] = 4
            # Nothing else is written where the letters are told.
            layer.self_attn.o_proj.weight[: len(_LETTERS)] = 0
            layer.mlp.down_proj.weight[: len(_LETTERS)] = 0
    model.save_pretrained(folder)
    letters.save_pretrained(folder)
    return str(folder)
