"""Commands that cannot work: one line, at once, and exit code 2, from every door."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

from lnbench import __version__, _lm_eval_hook
from lnbench.cli import main
from lnbench.files import tasks_dir
from lnbench.formats import validated
from lnbench.language_control.completions import Completion
from lnbench.lm import LNBenchLM
from lnbench.model_arguments import check_command
from lnbench.settings import ExperimentSettings
from lnbench.sweeps import spec
from tests.support.messages import refused

PTH = Path(_lm_eval_hook.__file__).with_name("lnbench_lm_eval.pth")

WRONG: dict[str, tuple[list[str], tuple[object, ...]]] = {
    "an intervention that does not exist": (["--model_args", "intervention=p1O"], ("p1O", "zero")),
    "a parameter that does not exist": (["--model_args", "intervention=constant:valeu=1"], ("valeu", "value")),
    "a selector that does not exist": (["--model_args", "pretrained=m,selector=lap"], ("lap", "lape")),
    "a misspelt argument": (["--model_args", "intervenion=p10"], ("intervenion", "intervention")),
    "a misspelt argument of hf": (["--model_args", "pretraind=m"], ("pretraind", "pretrained")),
    "a site that does not exist": (["--model_args", "site=mlp"], ("mlp", "post")),
    "a file that does not exist": (["--model_args", "neurons=no/such.json"], ("no/such.json",)),
    "no names": (["--model_args", "=,="], ("=,=",)),
    "no value": (["--model_args", "pretrained=m,zero"], ("zero",)),
    "a name without text": (["--model_args", "=gpt2"], ("=gpt2",)),
    "JSON that is cut off": (["--model_args", '{"pretrained": "m"'], ('{"pretrained": "m"',)),
    "W&B is not installed": (["--wandb_args", "project=x"], ("--wandb_args", "wandb")),
    "Trackio is not installed": (["--trackio_args=project=x"], ("--trackio_args", "trackio")),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_command_that_cannot_work_is_refused(case: str) -> None:
    words, values = WRONG[case]
    with refused(*values):
        check_command(["--model", "lnbench", "--tasks", "x", *words])
    check_command(["--model", "hf", "--tasks", "x", *words])


@pytest.mark.parametrize(
    "words",
    [
        ["intervention=p10,corpus=data/*.jsonl,dtype=bfloat16"],
        ["pretrained=m,attn_implementation=eager,load_in_4bit=True"],
        ["pretrained=m,max_memory_per_gpu=1,chat_template_args={'a': 1, 'b': 2}"],
        ['{"pretrained": "m", "language": "no"}'],
        ["pretrained=m", "language=nan"],
    ],
)
def test_a_command_that_can_work_is_left_alone(words: list[str]) -> None:
    check_command(["run", "--model", "lnbench", "--model_args", *words, "--tasks", "x"])


TASKS: dict[str, tuple[list[str], tuple[object, ...]]] = {
    "a letter too many": (["--tasks", "lnbench_xnli_hii"], ("lnbench_xnli_hii", "lnbench_xnli_hi")),
    "among others": (["--tasks", "piqa,lnbench_xnly_hi"], ("lnbench_xnly_hi", "lnbench_xnli_hi")),
    "of a language without it": (["-t", "lnbench_xquad_xx"], ("lnbench_xquad_xx",)),
    "nothing like it": (["--tasks", "lnbench_qqqqqq"], ("lnbench_qqqqqq",)),
}


@pytest.mark.parametrize("case", TASKS)
def test_a_task_of_ours_that_does_not_exist_is_refused_at_once(case: str) -> None:
    words, values = TASKS[case]
    with refused("unknown task", *values):
        check_command(["--model", "lnbench", "--include_path", str(tasks_dir()), *words])


def test_a_task_that_lm_eval_is_not_shown_is_refused_at_once(tmp_path: Path) -> None:
    with refused("lnbench_xnli_hi", "--include_path", "lnbench tasks"):
        check_command(["--model", "lnbench", "--tasks", "lnbench_xnli_hi"])
    (tmp_path / "own.yaml").write_text("task: lnbench_own\n")
    for names in ("lnbench_own,piqa", "lnbench_*", "arc_easy"):
        check_command(["--model", "lnbench", "--include_path", str(tmp_path), "--tasks", names])
    check_command(["--model", "lnbench", "--include_path", str(tasks_dir()), "--tasks", "lnbench_ppl,lnbench_xnli_hi"])


CONFIGS: dict[str, tuple[str, list[str], tuple[object, ...]]] = {
    "arguments as a dictionary": ("model_args: {intervention: p1O}", [], ("p1O",)),
    "arguments as text": ("model_args: intervention=p1O,selector=lape", [], ("p1O",)),
    "a task": ("tasks: [piqa, lnbench_xnli_hii]", ["--include_path", "{tasks}"], ("lnbench_xnli_hi",)),
    "tasks as text, and a folder": ("tasks: lnbench_xnli_hii\ninclude_path: {tasks}", [], ("lnbench_xnli_hi",)),
    "beside options": ("tasks: [piqa]", ["--model_args", "intervention=p1O"], ("p1O",)),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_file_of_options_is_looked_at_as_the_options_are(case: str, tmp_path: Path) -> None:
    content, words, values = CONFIGS[case]
    config, folder = tmp_path / "run.yaml", str(tasks_dir())
    config.write_text("model: lnbench\n" + content.replace("{tasks}", folder), encoding="utf-8")
    with refused(*values):
        check_command(["run", "--config", str(config), *(word.replace("{tasks}", folder) for word in words)])
    check_command(["run", "--config", str(config), "--model", "hf"])
    check_command(["run", "--config", str(tmp_path / "absent.yaml")])


def started(words: list[str], folder: Path, **variables: str) -> tuple[int, str, float]:
    """Return exit code, stderr and seconds of ``lm_eval``, as a fresh installation has it."""
    # The hook of this checkout, whatever is installed.
    code = (
        "import sys; sys.meta_path[:] = [finder for finder in sys.meta_path if 'nbench' not in repr(finder)]\n"
        f"exec({PTH.read_text(encoding='utf-8')!r})\n"
        f"sys.argv[:] = ['lm_eval', *{words!r}]\n"
        "from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(_lm_eval_hook.__file__).parents[1]), **variables},
    )
    return done.returncode, done.stderr, time.monotonic() - begun


@pytest.mark.processes
def test_lm_evals_own_command_says_it_in_one_line_and_before_its_imports(tmp_path: Path) -> None:
    code, said, _ = started(["--model", "lnbench", "--model_args", "=,=", "--tasks", "x"], tmp_path)
    assert (code, said.count("\n"), said.startswith("lnbench: ")) == (2, 1, True)
    code, said, _ = started(
        ["--model", "lnbench", "--model_args", "=,=", "--tasks", "x"], tmp_path, LNBENCH_TRACEBACK="1"
    )
    assert code == 2
    assert "Traceback" in said


@pytest.mark.parametrize(
    "variables",
    [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "latin-1"}],
    ids=["C locale", "Latin-1"],
)
@pytest.mark.parametrize("command", ["--model lnbench --tasks piqa", "run --config {config}"])
def test_what_lm_eval_prints_in_the_end_never_fails(command: str, variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: lnbench")
    words = command.replace("{config}", str(tmp_path / "run.yaml")).split()
    code = (
        f"import sys; from lnbench import _lm_eval_hook; sys.argv[:] = ['lm_eval', *{words!r}]\n"
        "_lm_eval_hook.check_command(); print('acc \\u2191', '\\u0939'); print('\\u2191', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=os.environ | variables)
    threads, rest = done.stderr.split(b"\n", 1)
    assert threads.startswith(b"threads: ")
    assert (done.returncode, done.stdout[:5], rest) == (0, b"acc ?", b"?\n")


@pytest.mark.processes
def test_an_error_that_is_found_late_is_one_line_too(tiny_model: str, tiny_corpus: str, tmp_path: Path) -> None:
    arguments = f"pretrained={tiny_model},corpus={tiny_corpus.replace('{lang}', '*')},corpus_tokens=400"
    words = ["--model", "lnbench", "--model_args", f"{arguments},intervention=zero,language=xx", "--tasks", "piqa"]
    code, said, _ = started([*words, "--device", "cpu"], tmp_path)
    last = said.strip().splitlines()[-1]
    assert (code, last.startswith("lnbench: "), "'xx'" in last, "Traceback" in said) == (2, True, True, False)


@pytest.mark.parametrize("words", [["--version"], ["--version", "stats"], ["--traceback", "--version"]])
def test_the_version_is_printed(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["lnbench", *words])
    monkeypatch.delenv("LNBENCH_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().out) == (0, f"{__version__}\n")


# A library's error that is none of ours

REQUEST = Instance("loglikelihood", {}, ("a", " b"), 0, ("t", 0, 1))


def _no_database(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)


def _cut_off(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _overwritten(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\0" * (len(whole) - 100))


def _rows(value: str) -> Any:
    def damage(path: Path) -> None:
        with sqlite3.connect(path) as database:
            database.execute("UPDATE lnbench SET value = ?", (value,))

    return damage


DAMAGE = {
    "another file": _no_database,
    "cut off": _cut_off,
    "overwritten": _overwritten,
    "half an answer": _rows("[-1.5"),
    "the answer of another kind": _rows('"text"'),
    "not a number": _rows("[NaN, true]"),
    "an answer too few": _rows("[-1.5]"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_of_answers_is_named(case: str, given: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "answers_rank0.db"
    cached = CachingLM(LNBenchLM(**given), str(path))
    cached.loglikelihood([REQUEST])
    cached.dbdict.close()
    cached.lm.cache_hook._table.close()
    DAMAGE[case](path)
    with refused(path, "--use_cache"):
        CachingLM(LNBenchLM(**given), str(path)).loglikelihood([REQUEST])
    if case == "another file":
        with refused(path, "--use_cache"):
            check_command(["--model", "lnbench", "--use_cache", str(tmp_path / "answers")])


@pytest.mark.slow
def test_a_path_that_is_too_long_for_rays_sockets_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lnbench.plugins.executors.ray import Ray

    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    with pytest.raises(OSError, match="AF_UNIX"), socket.socket(socket.AF_UNIX) as test:
        test.bind(str(folder / "socket"))
    with refused(folder, 107, "RAY_TMPDIR"), Ray(workers=1):
        pass


# Values that a parser takes for something else


@pytest.mark.parametrize("word", ["no", "on", "yes", "off", "true", "null", "1", "2024-01-01"])
def test_a_name_that_yaml_takes_for_something_else(word: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"tasks: ['lnbench_ppl_{{lang}}']\nlanguages: [en, {word}]\n", encoding="utf-8")
    with refused("YAML", "quotes", "languages"):
        spec.load(path)
    path.write_text(f"tasks: ['lnbench_ppl_{{lang}}']\nlanguages: [en, '{word}']\n", encoding="utf-8")
    assert list(spec.load(path).languages) == ["en", word]


@pytest.mark.parametrize("field", ["intervention", "selector", "corpus", "head", "neurons"])
def test_a_text_that_a_parser_takes_for_a_boolean(field: str) -> None:
    with refused(field, "False", "YAML", "quotes"):
        ExperimentSettings(**{field: False})


@pytest.mark.parametrize("written", ["nan", "NaN"])
def test_min_nan_chinese_is_a_language(written: str) -> None:
    check_command(["--model", "lnbench", "--model_args", f"language={written}"])
    assert ExperimentSettings(language=float("nan")).language == "nan"
    assert ExperimentSettings(**json.loads('{"language": "nan"}')).language == "nan"


@pytest.mark.parametrize("value", [None, True, 3, 2.5])
def test_a_value_of_json_is_refused_without_a_word_about_yaml(value: object) -> None:
    with refused("completion", "not") as caught:
        validated(Completion, {"task": "t", "source": "s", "language": "hi", "completion": value}, "line 1")
    assert "YAML" not in str(caught.value)
