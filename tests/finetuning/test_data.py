"""Training data: the prompts are lm-eval's, answers survive every cut, and nothing goes missing uncounted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given
from hypothesis import settings as fixture_settings
from hypothesis import strategies as some
from lm_eval.tasks import TaskManager

from lnbench.files import tasks_dir
from lnbench.finetuning.data import Example, TrainingData, prepare
from lnbench.finetuning.presets import PRESETS, TrainingSettings, settings_of
from lnbench.finetuning.training_rows import SOURCES, open_rows
from lnbench.lm import LNBenchLM
from lnbench.special_tokens import cut_left
from lnbench.task_data import with_choices
from tests.support.finetuning import pair, question, write
from tests.support.messages import lacks, refused


def data(lm: LNBenchLM, name: str = "xnli", include_path: Path | None = None, **settings: Any) -> TrainingData:
    return prepare(
        name,
        lm,
        TrainingSettings(**{"max_length": 400, **settings}),
        include_path=str(include_path) if include_path else None,
    )


def requests_of(task: str, document: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What lm-eval itself would ask of a row of the task's data."""
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)
    built = manager.load([task])["tasks"][task]
    templates = built.config.dataset_kwargs.get("lnbench_choices", ())
    (document,) = with_choices(DatasetDict(test=Dataset.from_list([document])), templates)["test"]
    made = built.construct_requests(document, built.fewshot_context(document, 0))
    return [one.args for one in (made if isinstance(made, list) else [made])]


def answer_of(lm: LNBenchLM, example: Example) -> str:
    return str(lm.tok_decode(example.tokens[-example.answer :], skip_special_tokens=False))


def test_a_prompted_example_is_lm_evals_request_and_its_right_choice(lm: LNBenchLM) -> None:
    for number, example in enumerate(data(lm).training):
        document = pair(35 + number) | {"language": "en"}
        context, continuation = requests_of("lnbench_xnli_en", document)[document["label"]]
        before, after = lm._encode_pair(context, continuation)
        assert example.tokens == before + after
        assert example.answer == len(after)
        assert answer_of(lm, example) == f" {('Yes', 'Also', 'No')[document['label']]}, {document['hypothesis']}"


def test_a_heads_example_is_the_context_that_lm_eval_hands_the_model(lm: LNBenchLM) -> None:
    made = data(lm, answer="head")
    assert made.classes == 3
    for number, example in enumerate(made.training):
        document = pair(35 + number) | {"language": "en"}
        context = requests_of("lnbench_xnli_pair_en", document)[0][0]
        assert (example.tokens, example.answer, example.label) == (lm.tok_encode(context), 0, document["label"])


def test_a_pair_is_divided_by_the_end_of_text(lm: LNBenchLM) -> None:
    (example, *_) = data(lm, answer="head").training
    document = pair(35)
    end = lm.tokenizer.eos_token_id
    assert example.tokens == [*lm.tok_encode(document["premise"]), end, *lm.tok_encode(document["hypothesis"], False)]


@pytest.mark.parametrize(("name", "first", "count"), [("xquad", 0, 16), ("squad", 50, 12)])
def test_a_written_answer_ends_with_the_end_token(lm: LNBenchLM, name: str, first: int, count: int) -> None:
    made = data(lm, name, validation_examples=0)
    assert len(made.training) == count
    for number, example in enumerate(made.training, start=first):
        document = question(number) | {"language": "en"}
        ((context, _),) = requests_of("lnbench_xquad_en", document)
        answer = document["answers"]["text"][0]
        assert lm.tok_decode(example.tokens) == f"{context} {answer}"
        assert answer_of(lm, example) == f" {answer}<eos>"


def test_xquad_trains_on_the_questions_that_its_evaluation_leaves_out(lm: LNBenchLM) -> None:
    assert [row["id"] for row in open_rows("xquad").training] == [str(number) for number in range(16)]


def test_rows_to_measure_on_have_all_choices_and_come_from_elsewhere(lm: LNBenchLM) -> None:
    made = data(lm, validation_examples=5)
    assert len(made.validation) == 5
    for number, one in enumerate(made.validation):
        document = pair(70 + number) | {"language": "en"}
        wanted = [lm._encode_pair(*request) for request in requests_of("lnbench_xnli_en", document)]
        assert [choice.tokens for choice in one.choices] == [before + after for before, after in wanted]
        assert one.gold == document["label"]
    assert not made.account["validation_held_out"]


def test_without_rows_of_their_own_the_last_are_held_out(lm: LNBenchLM, caplog: pytest.LogCaptureFixture) -> None:
    made = data(lm, "squad", validation_examples=2)
    assert (len(made.training), len(made.validation)) == (10, 2)
    texts = [lm.tok_decode(one.choices[0].tokens) for one in made.validation]
    assert all(f"number {number}." in text for number, text in zip((61, 60), texts, strict=True))
    assert made.account["validation_held_out"]
    assert not caplog.text
    assert data(lm, "squad", validation_examples=9).account == made.account
    assert "squad has 2 rows to measure on, a tenth of its rows, not 9" in caplog.text


def test_the_first_rows_or_a_seeded_sample(lm: LNBenchLM) -> None:
    every = [example.tokens for example in data(lm).training]
    assert [example.tokens for example in data(lm, examples=7).training] == every[:7]
    drawn = [[e.tokens for e in data(lm, examples=7, sample="random", seed=seed).training] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(tokens in every for tokens in drawn[0] + drawn[2])


def test_the_fingerprint_follows_the_content(lm: LNBenchLM) -> None:
    prints = [data(lm, **one).account["fingerprint"] for one in ({}, {}, {"examples": 7}, {"answer": "head"})]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


# What is left out


def test_empty_and_unlabelled_rows_are_left_out_and_counted(
    lm: LNBenchLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [pair(number) for number in range(6)]
    rows[1]["label"], rows[2]["hypothesis"], rows[4]["premise"] = -1, " ", ""
    write(tmp_path / "xnli" / "en.train.jsonl", rows)
    write(tmp_path / "xnli" / "en.validation.jsonl", [pair(9)])
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        made = data(lm)
    assert len(made.training) == 3
    assert made.account["left_out"] == {"unlabelled": 1, "empty": 2}
    assert not lacks(caplog.text, "1", "label", "2", "text")


def test_a_question_without_an_answer_is_unlabelled(
    lm: LNBenchLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [question(number) for number in range(5)]
    rows[0]["answers"] = {"text": [], "answer_start": []}
    rows[3]["answers"] = {"text": [""], "answer_start": [0]}
    write(tmp_path / "squad" / "en.train.jsonl", rows)
    write(tmp_path / "xquad" / "en.jsonl", rows[1:3])
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    made = data(lm, "squad", validation_examples=0)
    assert made.account["left_out"] == {"unlabelled": 2}
    assert len(made.training) == 3


def test_a_long_example_loses_the_start_of_its_prompt_and_never_its_answer(
    lm: LNBenchLM, caplog: pytest.LogCaptureFixture
) -> None:
    whole = data(lm).training
    longest = sorted({len(example.tokens) for example in whole})[-2]
    too_long = [example for example in whole if len(example.tokens) > longest]
    assert 0 < len(too_long) < len(whole)
    with caplog.at_level(logging.WARNING):
        cut = data(lm, max_length=longest)
    assert cut.account["left_out"] == {"cut": len(too_long)}
    assert not lacks(caplog.text, len(too_long), "cut")
    for before, after in zip(whole, cut.training, strict=True):
        if len(before.tokens) > longest:
            assert after.tokens == before.tokens[:1] + before.tokens[-longest + 1 :]
        assert after.answer == before.answer
        assert answer_of(lm, after) == answer_of(lm, before)
    dropped = data(lm, max_length=longest, too_long="drop")
    assert dropped.account["left_out"] == {"too_long": len(too_long)}
    assert [example.tokens for example in dropped.training] == [
        example.tokens for example in whole if len(example.tokens) <= longest
    ]


def test_an_answer_that_does_not_fit_is_left_out(
    lm: LNBenchLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [question(0), question(1)]
    rows[1]["answers"]["text"][0] = "a long answer " * 10
    write(tmp_path / "squad" / "en.train.jsonl", rows)
    write(tmp_path / "xquad" / "en.jsonl", rows)
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    made = data(lm, "squad", validation_examples=0, max_length=100)
    assert len(made.training) == 1
    assert made.account["left_out"]["too_long"] == 1


def test_cut_left_keeps_the_first_token_only_if_it_is_bos() -> None:
    assert cut_left([1, 5, 6, 7], 3, first=1) == [1, 6, 7]
    assert cut_left([4, 5, 6, 7], 3, first=1) == [5, 6, 7]
    assert cut_left([1, 5], 3, first=1) == [1, 5]


@given(place=some.integers(0, 60), length=some.integers(40, 300))
@fixture_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_never_takes_the_trained_answer_from_the_prompt(
    lm: LNBenchLM, tmp_path_factory: pytest.TempPathFactory, place: int, length: int
) -> None:
    words = ["stone"] * 60
    words.insert(place, "Zanzibar")
    row = question(0) | {"context": " ".join(words), "answers": {"text": ["Zanzibar"], "answer_start": [6 * place]}}
    folder = tmp_path_factory.mktemp("cut")
    # Its answer is not in its passage, so no cut can take it from there.
    other = question(1) | {"answers": {"text": ["Oslo"], "answer_start": [0]}}
    write(folder / "squad" / "en.train.jsonl", [row, other])
    write(folder / "xquad" / "en.jsonl", [row])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNBENCH_DATA", str(folder))
        made = data(lm, "squad", validation_examples=0, max_length=length, too_long="cut")
    prompts = [lm.tok_decode(example.tokens[: -example.answer]) for example in made.training]
    answers = [lm.tok_decode(example.tokens[-example.answer : -1]).strip() for example in made.training]
    kept = [prompt for prompt, answer in zip(prompts, answers, strict=True) if answer == "Zanzibar"]
    assert all("Zanzibar" in prompt for prompt in kept)
    left_out = made.account["left_out"]
    assert len(kept) + left_out.get("answer_cut", 0) == 1
    assert "Oslo" in answers


def test_what_the_papers_code_drops_is_dropped(lm: LNBenchLM) -> None:
    whole = data(lm).training
    bound = sorted(len(example.tokens) for example in whole)[len(whole) // 2]
    dropped = data(lm, drop_from=bound)
    assert [example.tokens for example in dropped.training] == [e.tokens for e in whole if len(e.tokens) < bound]
    assert dropped.account["left_out"] == {"too_long": len(whole) - len(dropped.training)}


def test_a_loss_over_the_prompt_is_over_all_but_the_first_token(lm: LNBenchLM) -> None:
    answer, every = (data(lm, "xquad", validation_examples=0, loss=loss).training for loss in ("answer", "all"))
    assert [example.tokens for example in every] == [example.tokens for example in answer]
    assert [example.answer for example in every] == [len(example.tokens) - 1 for example in answer]
    with refused("loss=all", "head"):
        TrainingSettings(loss="all", answer="head")


@pytest.mark.parametrize(("name", "frame"), [("xquad_pair", "plain"), ("xquad_pair_english", "english")])
def test_a_pair_is_trained_in_the_frame_that_every_language_is_asked_in(lm: LNBenchLM, name: str, frame: str) -> None:
    made = data(lm, name, validation_examples=0)
    document = question(0) | {"language": "hi", "frame": frame}
    ((context, _),) = requests_of("lnbench_xquad_pair_en", document)
    assert lm.tok_decode(made.training[0].tokens) == f"{context} {document['answers']['text'][0]}"
    assert ("Answer the question" in context) == (frame == "english")


# Any task of lm-eval


def write_task(folder: Path, **changes: Any) -> Path:
    """A multiple-choice task of one's own with all three splits."""
    config = {
        "task": "mine",
        "custom_dataset": "!function rows.rows",
        "output_type": "multiple_choice",
        "training_split": "train",
        "validation_split": "validation",
        "test_split": "test",
        "description": "Sums.\\n\\n",
        "doc_to_text": "{{a}} + {{b}} =",
        "doc_to_choice": ["1", "2", "3"],
        "doc_to_target": "sum",
    } | changes
    lines = [f"{key}: {value if str(value).startswith('!') else json.dumps(value)}" for key, value in config.items()]
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text("\n".join(lines).replace("\\\\n", "\\n"))
    (folder / "rows.py").write_text(
        "import datasets\n"
        "def rows(**_):\n"
        "    sums = [{'a': a, 'b': b, 'sum': a + b - 1} for a in (0, 1) for b in (1, 2)]\n"
        "    sums.append({'a': 9, 'b': 9, 'sum': 17})\n"
        "    part = datasets.Dataset.from_list\n"
        "    return datasets.DatasetDict(train=part(sums), validation=part(sums[:2]), test=part(sums[1:3]))\n"
    )
    return folder


def test_a_head_is_not_trained_on_choices_that_hold_text_of_the_row(lm: LNBenchLM, tmp_path: Path) -> None:
    folder = write_task(tmp_path, doc_to_choice="{{[a ~ ' in one', a ~ ' in two', a ~ ' in three']}}")
    assert len(data(lm, "mine", folder, validation_examples=0).training) > 0
    with refused("mine", "row", "'1 in one'", "answer=prompt"):
        data(lm, "mine", folder, answer="head")


def test_any_task_with_a_training_split(lm: LNBenchLM, tmp_path: Path) -> None:
    made = data(lm, "mine", write_task(tmp_path / "tasks"))
    assert lm.tok_decode(made.training[2].tokens) == "Sums.\n\n1 + 1 = 2"
    assert answer_of(lm, made.training[2]) == " 2"
    assert (len(made.training), len(made.validation)) == (4, 2)
    assert made.account["left_out"] == {"unlabelled": 1}  # 9 + 9 is none of the choices


def test_a_validation_split_that_the_task_evaluates_is_not_measured_on(lm: LNBenchLM, tmp_path: Path) -> None:
    made = data(lm, "mine", write_task(tmp_path / "tasks", test_split=None), validation_examples=1)
    assert made.account["validation_held_out"]
    assert (len(made.training), len(made.validation)) == (3, 1)
    assert made.account["validation_left_out"] == {"unlabelled": 1}


def test_choices_that_stand_in_the_prompt(lm: LNBenchLM, tmp_path: Path) -> None:
    changes = {"doc_to_text": "{{b - 1}}", "doc_to_choice": ["A one", "A two"], "doc_to_target": "is it"}
    folder = write_task(tmp_path / "tasks", **changes)
    made = data(lm, "mine", folder)
    assert lm.tok_decode(made.training[1].tokens).endswith("A two is it")
    assert answer_of(lm, made.training[1]) == " is it"
    with refused("answer=prompt"):
        data(lm, "mine", folder, answer="head")


def test_rows_with_different_numbers_of_choices_have_no_head(lm: LNBenchLM, tmp_path: Path) -> None:
    folder = write_task(tmp_path / "tasks", doc_to_choice="{{['1', '2', '3'][: 2 + a]}}")
    assert len(data(lm, "mine", folder).training) == 4
    with refused("2", "3", "choices"):
        data(lm, "mine", folder, answer="head")


def test_a_task_without_answers_is_refused(lm: LNBenchLM, tmp_path: Path) -> None:
    with refused("loglikelihood_rolling"):
        data(lm, "mine", write_task(tmp_path / "tasks", output_type="loglikelihood_rolling", doc_to_choice=None))
    with refused("lnbench_xnli_en", ", ".join(SOURCES)):
        data(lm, "lnbench_xnli_en")
    with refused("lnbench_xnli", "group"):
        data(lm, "lnbench_xnli")
    with refused("lnbench_xquad_en", "answer=prompt"):
        data(lm, "xquad", answer="head")
    with refused(tmp_path / "nowhere"):
        data(lm, "mine", tmp_path / "nowhere")


def test_unknown_data_lists_what_exists(lm: LNBenchLM, monkeypatch: pytest.MonkeyPatch) -> None:
    # Indexing all of lm-eval's tasks takes ten seconds.
    monkeypatch.setattr("lnbench.lm.evaluate.Tasks.has", lambda tasks, name: name in tasks.task_index)
    with refused("xnly", ", ".join(SOURCES)):
        data(lm, "xnly")


def test_data_that_is_not_there(lm: LNBenchLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    with refused("en.train.jsonl.gz"):
        data(lm)
    monkeypatch.delenv("LNBENCH_DATA")
    monkeypatch.setattr("lnbench.task_data.datasets.load_dataset", offline)
    with refused("facebook/xnli", "LNBENCH_DATA"):
        data(lm)


def offline(*_: Any, **__: Any) -> None:
    raise ConnectionError("offline")


def test_nothing_left_to_train_on(lm: LNBenchLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("xnli", "30"):
        data(lm, max_length=20, too_long="drop")
    write(tmp_path / "squad" / "en.train.jsonl", [question(0)])
    write(tmp_path / "xquad" / "en.jsonl", [question(0)])
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    with refused("squad", "1", "validation_examples=1"):
        data(lm, "squad")


def test_a_task_with_examples_in_its_prompt_is_trained_without(
    lm: LNBenchLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = data(lm, "mine", write_task(tmp_path / "tasks", num_fewshot=2))
    assert lm.tok_decode(made.training[2].tokens) == "Sums.\n\n1 + 1 = 2"
    assert not lacks(caplog.text, "mine", "2 examples")


# Presets


def test_the_papers_numbers() -> None:
    shared = {
        "bf16": True,
        "too_long": "drop",
        "loss": "answer",
        "beta1": 0.95,
        "beta2": 0.999,
        "weight_decay": 0.1,
        "clip": 10.0,
        "warmup": 0.01,
        "schedule": "linear",
    }
    xnli, xquad = settings_of("xnli-paper", {}).model_dump(), settings_of("xquad-paper", {}).model_dump()
    own = {"lr": 1e-5, "examples": 100_000, "sample": "first", "max_length": 256, "batch_size": 8, "epochs": 2}
    own["drop_from"] = 256
    assert xnli.items() >= (shared | own | {"answer": "head"}).items()
    own = {"lr": 5e-5, "examples": None, "max_length": 512, "batch_size": 4, "epochs": 10, "validation_examples": 0}
    own["drop_from"] = 511
    assert xquad.items() >= (shared | own | {"answer": "prompt"}).items()
    assert PRESETS["xnli-paper"].adapter == {"rank": 8, "alpha": 16}
    assert PRESETS["xquad-paper"].adapter == {"rank": 64, "alpha": 128}
    assert [PRESETS[name].data for name in ("xnli-paper", "xquad-paper")] == ["xnli", "xquad"]


def test_every_number_can_be_replaced() -> None:
    assert settings_of("xnli-paper", {"lr": "0.5", "examples": "none"}).model_dump() == settings_of(
        "xnli-paper", {}
    ).model_dump() | {"lr": 0.5, "examples": None}
    assert settings_of(None, {"report_to": "tensorboard+wandb"}).report_to == ("tensorboard", "wandb")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"rate": 1}, ["rate", "answer, pooling"]),
        ({"lr": "fast"}, ["lr='fast'"]),
        ({"batch_size": 8, "accumulation": 3}, ["batch_size=8", "accumulation=3"]),
        ({"patience": 2, "validation_examples": 0}, ["patience", "validation_examples"]),
    ],
)
def test_wrong_settings(given: dict[str, Any], named: list[str]) -> None:
    with refused(*named):
        settings_of(None, given)


def test_an_unknown_preset_lists_what_exists() -> None:
    with refused("paper", "xnli-paper, xquad-paper, sse-paper"):
        settings_of("paper", {})
