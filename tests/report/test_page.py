"""The page: what is in it, that nothing from a run becomes markup, how large it gets, and what it cannot be made of."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from lnbench import NeuronSet, figures, leaderboard, report
from lnbench.cli import app
from lnbench.figures import save
from lnbench.figures.perplexity_matrix import perplexity_matrix
from lnbench.report import page_context, page_figures
from lnbench.report.inputs import find
from lnbench.tables.headline import headline
from lnbench.tables.plain_names import plain_name
from tests.support.html_reader import Element, read
from tests.support.messages import lacks, refused
from tests.support.report import (
    DOCUMENTS,
    HOSTILE,
    LANGUAGES,
    Sweep,
    control,
    matrix,
    neuron_set,
    write_matrix,
    write_neurons,
    write_reproduction,
    write_sweep,
    write_training,
)

pytestmark = pytest.mark.slow
LANGUAGE_NAMES = {"en": "English", "hi": "Hindi", "ur": "Urdu"}


@pytest.fixture(scope="module")
def html(page: Path) -> Element:
    return read(page)


def section(html: Element, name: str) -> Element:
    return html.one("section", id=name)


def test_the_leaderboard_is_the_one_that_the_runs_come_to(html: Element, runs: Path, page: Path) -> None:
    rows = leaderboard.build(leaderboard.read_runs([runs / "sweep"]))
    heading, *shown = section(html, "leaderboard").one("table").rows()
    assert len(shown) == len(rows) == 19
    for row, cells in zip(rows, shown, strict=True):
        got = dict(zip(heading, cells, strict=True))
        assert got["Language"] == LANGUAGE_NAMES[row.language]
        assert got["Intervention"] == plain_name("intervention", row.intervention)
        assert got["Value"] == ("–" if row.value is None else f"{row.value:.3f}")
        change = "–" if row.delta is None else f"{row.delta:+.3f}".replace("-", "−")
        assert got["Change"].split("*")[0].strip() == change
        assert ("*" in got["Change"]) == bool(row.significant)
        assert ("†" in got["Change to control"]) == bool(row.control_significant)
    assert any(row.significant for row in rows)
    assert any(row.control_significant for row in rows)
    assert leaderboard.load(page.parent / "leaderboard.json") == rows


def test_plain_names_have_what_is_typed_beside_them(html: Element, runs: Path) -> None:
    rows = leaderboard.build(leaderboard.read_runs([runs / "sweep"]))
    shown = list(section(html, "leaderboard").one("tbody").all("tr"))
    for row, cells in zip(rows, shown, strict=True):
        typed = {str(cell.attributes["title"]) for cell in cells.all() if "title" in cell.attributes}
        assert {row.language, row.intervention, row.metric or "failed"} <= typed | {"failed"}
    captions = [table.one("caption") for table in section(html, "tables").all("table")]
    assert [caption.attributes["title"] for caption in captions] == ["acc of quiz_{lang}: m, float32"]
    assert "quiz, accuracy (higher is better): m, float32" in captions[0].text


def test_each_row_leads_to_its_command(html: Element, runs: Path) -> None:
    rows = leaderboard.build(leaderboard.read_runs([runs / "sweep"]))
    links = [link.attributes["href"] for link in section(html, "leaderboard").one("tbody").all("a")]
    commands = section(html, "commands")
    assert [commands.one("li", id=str(link)[1:]).text for link in links] == [row.command for row in rows]


def test_every_kind_of_run_has_its_section(html: Element) -> None:
    names = [one.attributes["id"] for one in html.all("section")]
    expected = ["findings", "explore", "samples", "perplexity", "published", "figures", "leaderboard", "tables"]
    assert names == [*expected, "comparisons", "caveats", "run", "commands"]
    linked = [str(one.attributes["href"])[1:] for one in html.one("nav").all("a")]
    assert linked == names


def test_findings_say_what_changed_and_what_did_it(html: Element) -> None:
    said = section(html, "comparisons").text
    assert not lacks(said, "2 of 6", "p < 0.05", "Holm", "worse in Hindi (−0.929) and Urdu (−0.857)", "mean", "LAPE")
    assert not lacks(said, "1 of 3 languages: ur (not en and hi)")


def test_the_first_screen_has_the_finding_how_sure_it_is_and_what_was_not_found(html: Element, runs: Path) -> None:
    found = headline(leaderboard.build(leaderboard.read_runs([runs / "sweep"])))
    first = section(html, "findings")
    assert first.one("h2").text == " ".join(found.finding.split())
    told = page_context.caveats(find([runs]))
    serious = sum(caveat.serious for caveat in told)
    assert 1 < serious < len(told)
    assert not lacks(first.text, found.how_sure, found.not_found, f"{len(told)} caveats, {serious} serious")
    assert not lacks(found.finding, "worse in that language, in 2 of 3 languages (Hindi and Urdu)", "accuracy −0.93")
    figure = first.one("figure")
    sources = [figure.one("source").attributes["srcset"], figure.one("img").attributes["src"]]
    drawings = [base64.b64decode(str(address).partition("base64,")[2]).decode() for address in sources]
    assert drawings[0] != drawings[1]
    assert all("Hindi" in drawing and "as many random neurons" in drawing for drawing in drawings)
    folded = [section(html, name).one("summary").text for name in ("caveats", "tables", "run", "commands")]
    assert not lacks(" ".join(folded), f"{len(told)} caveats, {serious} serious", "1 table", "commands")


def test_the_reader_sees_why_urdu_suffers_from_hindi_neurons(html: Element) -> None:
    assert not lacks(section(html, "comparisons").text, "6 neurons, 4", "ur")
    perplexity = section(html, "perplexity")
    changes, selectivity, specificity, shared = (
        perplexity.one(id=f"perplexity-1-{number}").text for number in range(1, 5)
    )
    tables = {table.one("caption").text: table.rows() for table in perplexity.all("table")}
    changed = ["hi", "6", "+0.020 [−0.080, +0.120]*", "+1.500 [+1.400, +1.600]*†", "+1.600 [+1.500, +1.700]*†"]
    assert tables[changes][3] == [*changed, "+1.400 [+1.200, +1.600]"]
    assert ["hi", "+1.500", "+0.100", "+1.400 [+1.200, +1.600]", "ur"] in tables[selectivity]
    assert ["hi", "–", "–", "–", "+1.400 [+1.200, +1.600]"] in tables[specificity]
    assert ["hi", "ur", "+1.600", "+1.500", "4 of 6 (66.7 %)", "7.8 %"] in tables[shared]
    titles = [title.text for title in perplexity.all("h4")]
    assert len(titles) == 2, "the matrix, and beside it what languages share"


def test_published_values_stand_beside_measured_ones(html: Element) -> None:
    (table,) = [
        one for one in section(html, "published").all("table") if one.one("caption").text == "XNLI accuracy (%)"
    ]
    assert table.rows() == [
        ["model", "language", "value", "none", "P90", "0"],
        ["m", "hi", "measured", "41.2*", "–", ""],
        ["", "", "published", "40.0", "44.0", ""],
        ["", "", "difference", "+1.2", "–", ""],
    ]
    said = section(html, "published").text
    assert "No intervention helps. corrected survives" in said
    assert "Measured on 90 documents." in said
    assert "lnbench reproduce table4 --scale small" in section(html, "commands").text


def test_figures_are_in_the_page_and_their_files_beside_it(html: Element, page: Path) -> None:
    figures = [figure for figure in html.all("figure") if figure.attributes.get("class") != "hero"]
    assert len(figures) == 6
    for figure in figures:
        image = figure.one("img")
        assert image.attributes["alt"]
        assert figure.one("figcaption").text
        files = [page.parent / str(link.attributes["href"]) for link in figure.one("figcaption").all("a")]
        assert [file.suffix for file in files] == [".png", ".svg", ".pdf", ".csv"]
        kind, _, drawing = str(image.attributes["src"]).partition("base64,")
        assert (kind, base64.b64decode(drawing)) == ("data:image/svg+xml;", files[1].read_bytes())
        with files[-1].open(encoding="utf-8", newline="") as file:
            assert len(list(csv.reader(file))) == len(figure.one("details").one("table").rows())


def test_samples_stand_side_by_side(html: Element) -> None:
    groups = list(section(html, "samples").all("details"))
    assert [str(group.one("h3").text) for group in groups] == [
        f"quiz, {name}: m float32" for name in LANGUAGE_NAMES.values()
    ]
    hindi = groups[1]
    documents = list(hindi.all("article"))
    assert len(documents) == DOCUMENTS
    first, last = documents[0], documents[-1]
    assert "data-changed" in first.attributes
    assert "data-changed" not in last.attributes
    right = "नदी के किनारे एक पुराना घर है 0"
    assert first.one("table").rows()[1:] == [
        ["no intervention", right, "✓ right", "accuracy 1"],
        ["zero-ablation, LAPE, top 1 %", "another", "✗ wrong", "accuracy 0"],
        ["mean activation, LAPE, top 1 %", "the same", "✓ right", "accuracy 1"],
    ]
    texts = [one for one in first.all("p") if one.attributes.get("class") == "text"]
    assert {(one.attributes["dir"], one.attributes["lang"]) for one in texts} == {("auto", "hi")}


def test_one_file_that_needs_no_other(page: Path) -> None:
    source = page.read_text(encoding="utf-8")
    html = read(source)
    assert not [one for one in html.all() if one.tag in ("link", "iframe", "object", "embed", "base", "form")]
    for one in html.all():
        address = one.attributes.get("src") or ""
        assert address == "" or address.startswith("data:")
        assert not re.match(r"(?!data:image/)[a-z]+:", one.attributes.get("href") or "")
    assert len(source.encode()) < 5_000_000
    (policy,) = [one.attributes["content"] for one in html.all("meta") if "http-equiv" in one.attributes]
    assert policy is not None
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not [element.tag for element in html.all() if "style" in element.attributes]
    for tag in ("script", "style"):
        (text,) = html.one(tag).children
        assert isinstance(text, str)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def elements(html: Element) -> set[tuple[str, ...]]:
    """Every kind of element with its attributes."""
    return {(one.tag, *sorted(one.attributes)) for one in html.all()}


@pytest.mark.usefixtures("undrawn")
def test_what_runs_hold_is_text(sweep: Sweep, tmp_path: Path) -> None:
    clean = Sweep(tmp_path / "clean")
    lone = "\ud800" + HOSTILE
    hostile = HOSTILE.replace("\x00", "")  # JSON lines of records are read strictly
    for one, name, answer in ((clean, "x", "x"), (sweep, hostile, lone)):
        one.add("none", "hi", model=name)
        one.add("zero", "hi", wrong=13, outside=0.5, answer=answer, model=name, selector=name)
        one.add("mean", "hi", error=name, model=name, selector=name, revision=name)
        one.add("none", "hi", model=name, adapter=name, finetune=name, wrong=12, answer=answer)
        write_training(one.folder / "adapter")
    harmless = read(report.build([clean.folder], tmp_path / "one"))
    html = read(report.build([sweep.folder], tmp_path / "two"))
    assert elements(html) == elements(harmless)
    source = (tmp_path / "two" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", source)
    assert "<script>alert(1)</script>" in section(html, "samples").text
    assert "\ufffd<script>" in section(html, "samples").text
    assert "␛[31m ␀" in section(html, "samples").text
    for name in ("findings", "comparisons", "caveats", "run", "leaderboard", "tables", "samples", "commands"):
        assert "{{ 7*7 }}" in section(html, name).text or name == "commands"


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
def test_names_in_figures_are_text(tmp_path: Path) -> None:
    NeuronSet("m", 2, 32, {HOSTILE: {0: [1]}}).save(tmp_path / "run" / "neurons" / "set.json")
    drawn = page_figures.pictures(find([tmp_path / "run"]), tmp_path / "out")
    assert len(drawn.others) == 3
    for picture in drawn.others:
        drawing = ElementTree.fromstring(base64.b64decode(picture.svg))
        parts = {key.rpartition("}")[2] for element in drawing.iter() for key in (element.tag, *element.attrib)}
        assert not {part for part in parts if re.match("script|on", part)}


def large_sweep(sweep: Sweep, controls: int, interventions: int, answer: str) -> None:
    """Write so many random controls, and so many interventions of which each changes some answers."""
    for place, language in enumerate(LANGUAGES):
        sweep.add("none", language)
        for number in range(interventions):
            sweep.add(f"p{number}", language, wrong=4 * place, answer=answer)
        for seed in range(controls):
            sweep.add("p0", language, wrong=seed % 3, samples=False, **control(seed))


@pytest.mark.usefixtures("undrawn")
def test_a_page_says_what_it_leaves_out(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large_sweep(sweep, controls=10, interventions=2, answer="a long answer " * 20)
    monkeypatch.setattr(page_context, "MOST_ROWS", 5)
    monkeypatch.setattr(page_context, "MOST_SAMPLE_BYTES", 60_000)
    html = read(report.build([sweep.folder], tmp_path / "out"))
    board = section(html, "leaderboard")
    rows = list(board.one("tbody").all("tr"))
    assert len(rows) == 5 and "5 of 39 rows" in board.text
    assert {row.attributes["data-kind"] for row in rows} <= {"plain", "significant"}
    assert sum(row.attributes["data-kind"] == "significant" for row in rows) == 2, "the sure changes come first"
    samples = section(html, "samples")
    documents = list(samples.all("article"))
    assert DOCUMENTS < len(documents) < 3 * DOCUMENTS
    assert f"{len(documents)} of {3 * DOCUMENTS} measured documents are shown" in samples.text
    for group, changed in zip(samples.all("details"), (0, 4, 8), strict=True):
        articles = list(group.all("article"))
        assert sum("data-changed" in article.attributes for article in articles) == min(changed, len(articles))


def test_a_page_stays_small(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand rows, megabytes of answers, and large figures."""

    def save(figure: figures.Figure, folder: Path, *_chosen: object) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{figure.name}.{suffix}" for suffix in ("svg", "csv")]
        files[0].write_text(f"<svg>{'x' * 600_000}</svg>", encoding="utf-8")
        files[1].write_text(figures.table(figure), encoding="utf-8")
        return files

    monkeypatch.setattr(figures, "save", save)
    large_sweep(sweep, controls=400, interventions=30, answer="एक लंबा उत्तर \" & ' " * 50)
    write_neurons(tmp_path / "sweep")
    page = report.build([sweep.folder], tmp_path / "out")
    html = read(page)
    assert len(list(section(html, "leaderboard").one("tbody").all("tr"))) == page_context.MOST_ROWS
    assert len(list(section(html, "samples").all("article"))) > DOCUMENTS
    shown, drawn = list(html.all("img")), list(html.all("figure"))
    assert 1 <= len(shown) < len(drawn)
    assert all(list(figure.all("a")) for figure in drawn), "the others are in their files"
    assert 2_000_000 < page.stat().st_size < 5_000_000


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("write", "sections"),
    [
        (write_sweep, {"leaderboard", "tables", "samples"}),
        (write_neurons, {"run"}),
        (write_training, {"run"}),
        (write_reproduction, {"published", "commands"}),
    ],
)
def test_a_run_of_one_kind(write: Any, sections: set[str], tmp_path: Path) -> None:
    html = read(report.build([write(tmp_path / "run")], tmp_path / "out"))
    assert sections <= {one.attributes["id"] for one in html.all("section")}


def test_a_perplexity_matrix_alone(tmp_path: Path) -> None:
    write_matrix(tmp_path / "run")
    (tmp_path / "run" / "neurons" / "lape.json").unlink()
    html = read(report.build([tmp_path / "run"], tmp_path / "out"))
    (shared,) = [one for one in html.all("table") if "Shared neurons" in one.text]
    assert shared.rows()[1][-1] == "–", "without the NeuronSet, chance is not known"


@pytest.mark.usefixtures("undrawn")
def test_runs_without_samples(sweep: Sweep, tmp_path: Path) -> None:
    sweep.add("none", "hi", samples=False)
    sweep.add("zero", "hi", wrong=13, samples=False)
    html = read(report.build([sweep.folder], tmp_path / "out"))
    assert "samples" not in {one.attributes["id"] for one in html.all("section")}
    assert not lacks(section(html, "caveats").text, "lm-eval", "samples")
    assert "p < 0.05" not in section(html, "findings").text


@pytest.mark.usefixtures("undrawn")
def test_several_runs_and_the_same_twice(runs: Path, tmp_path: Path) -> None:
    once = read(report.build([runs], tmp_path / "one"))
    parts = [runs / name for name in ("sweep", "ppl", "table4", "adapter")]
    pages_equal = read(report.build([*parts, runs, parts[0]], tmp_path / "two"))
    for name in ("findings", "leaderboard", "published", "samples"):
        assert section(pages_equal, name).text == section(once, name).text


def test_nothing_to_report(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with refused(tmp_path / "empty", "records.jsonl, perplexity.json"):
        report.build([tmp_path / "empty"], tmp_path / "out")
    with refused(tmp_path / "missing"):
        report.build([tmp_path / "missing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["perplexity.json", "reproduction.json", "training.json", "neurons/lape.json"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": "something"}), encoding="utf-8")
    with refused(path):
        report.build([tmp_path / "run"], tmp_path / "out")


def test_figures_of_a_reproduction_come_from_its_folder_alone(tmp_path: Path) -> None:
    folder = write_reproduction(tmp_path / "figure1", ["figures/bars.svg", "figures/bars.csv", "../secret.svg"])
    (folder / "figures").mkdir()
    for path in (folder / "figures" / "bars.svg", folder / "figures" / "bars.csv", tmp_path / "secret.svg"):
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", encoding="utf-8")
    path = report.build([folder], tmp_path / "out")
    (image,) = read(path).all("img")
    assert str(image.attributes["src"]).startswith("data:image/svg+xml;base64,")
    copied = sorted(one.name for one in (tmp_path / "out" / "figures").iterdir())
    assert copied == ["figure1-bars.csv", "figure1-bars.svg"]


def test_a_reproduction_brings_the_runs_behind_it(tmp_path: Path) -> None:
    write_matrix(tmp_path / "ppl")
    drawn = tmp_path / "figure1" / "figures"
    save(perplexity_matrix(matrix()), drawn, ["svg"])
    files = [f"figures/{file.name}" for file in drawn.iterdir()]
    path = report.build([write_reproduction(tmp_path / "figure1", files, ["../ppl"])], tmp_path / "out")
    html = read(path)
    assert "Perplexity under zero on the neurons of lape, m (ppl)" in section(html, "perplexity").text
    titles = [one.text for one in section(html, "findings").all("h3")]
    assert titles == ["table4: XNLI accuracy"], "what a reproduction tells is not told again"
    names = [str(figure.attributes["id"]) for figure in html.all("figure")]
    assert not [name for name in names if "figure1" in name], (
        "what the report draws from the same numbers is shown once"
    )


@pytest.mark.usefixtures("undrawn")
def test_files_are_called_by_their_names(sweep: Sweep, tmp_path: Path) -> None:
    sweep.add("none", "hi", model="/models/llama")
    for folder in ("one", "two"):
        sweep.add("zero", "hi", wrong=13, model="/models/llama", selector=f"/{folder}/neurons/lape.json")
    sweep.add("mean", "hi", model="/models/llama", selector="/one/neurons/act_prob.json")
    html = read(report.build([sweep.folder], tmp_path / "out"))
    assert html.one("h1").text == "Language-specific neurons in llama"
    heading, *rows = section(html, "leaderboard").one("table").rows()
    shown = [row[heading.index("Neurons")] for row in rows]
    assert shown == ["-", "one/neurons/lape.json", "two/neurons/lape.json", "act_prob.json"]


@pytest.mark.usefixtures("undrawn")
def test_neurons_are_taken_from_the_cache_while_they_are_the_same(sweep: Sweep, tmp_path: Path) -> None:
    neurons = neuron_set()
    neurons.save(tmp_path / "cache.json")
    sweep.add("zero", "hi")
    (results,) = sweep.folder.glob("cells/*/results.json")
    told = json.loads(results.read_text(encoding="utf-8"))
    told["config"]["lnbench"]["neuron_set"] |= {
        "file": str(tmp_path / "cache.json"),
        "fingerprint": neurons.fingerprint,
    }
    results.write_text(json.dumps(told), encoding="utf-8")
    assert find([sweep.folder]).neuron_sets == {"lape": neurons}
    NeuronSet("other", 2, 32, {"hi": {0: [1]}}).save(tmp_path / "cache.json")
    assert find([sweep.folder]).neuron_sets == {}
    (tmp_path / "cache.json").write_text("{}", encoding="utf-8")
    assert find([sweep.folder]).neuron_sets == {}


@pytest.mark.usefixtures("undrawn")
def test_the_command(runs: Path, tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["report", str(runs / "sweep"), "-o", str(tmp_path / "out")])
    assert outcome.exit_code == 0, outcome.output
    assert str(tmp_path / "out" / "index.html") in outcome.output.replace("\n", "")
    assert (tmp_path / "out" / "index.html").is_file()
