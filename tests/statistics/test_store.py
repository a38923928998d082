"""The folder of Statistics: what it holds, and what is said when it does not."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import lnbench
from lnbench.statistics import LEVELS, Statistics, store
from lnbench.statistics.site_values import MOMENTS
from tests.support.messages import refused
from tests.support.samples import normal, statistics_of

PROVENANCE = {
    "model": "tiny",
    "revision": None,
    "weights": "0123456789abcdef",
    "dtype": "float32",
    "quantization": None,
    "tokenizer": "fedcba",
    "corpus": "abc",
    "sequence_length": 128,
}


def statistics(language: str = "hi", site: str = "post", seed: int = 0, **changes: Any) -> Statistics:
    found = statistics_of(normal(40, 2, 5, seed=seed), language=language, site=site)
    levels = {0.9: normal(2, 5, seed=8), 0.123456789: normal(2, 5, seed=9)}
    return replace(found, provenance=PROVENANCE | changes, batch_quantiles={"post": levels})


def equal(one: Statistics, other: Statistics) -> bool:
    def flat(values: Statistics) -> dict[str, torch.Tensor]:
        tensors = {
            f"{site}.{name}": part for site in values.sites for name, part in values.sites[site].tensors().items()
        }
        for site, levels in values.batch_quantiles.items():
            tensors |= {f"{site}.{level!r}": tensor for level, tensor in levels.items()}
        return tensors

    a, b = flat(one), flat(other)
    return (
        a.keys() == b.keys()
        and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)
        and (one.language, one.tokens, one.site) == (other.language, other.tokens, other.site)
    )


@pytest.mark.parametrize("site", ["post", "pre"])
def test_round_trip(tmp_path, site):
    saved = statistics(site=site)
    assert saved.save(tmp_path / "new" / "stats") == tmp_path / "new" / "stats" / "hi.safetensors"
    loaded = Statistics.load(tmp_path / "new" / "stats", "hi")
    assert equal(loaded, saved)
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.provenance == {key: value for key, value in PROVENANCE.items() if value is not None}


@pytest.mark.parametrize("site", ["post", "pre"])
def test_the_files_are_as_other_tools_expect(tmp_path, site):
    saved = statistics(site=site)
    saved.save(tmp_path)
    tensors = load_file(tmp_path / "hi.safetensors")
    for name in MOMENTS:
        assert torch.equal(tensors[f"{site}.{name}"], getattr(saved, name))
    assert torch.equal(tensors[f"{site}.quantiles"], saved.values.quantiles)
    assert tensors[f"{site}.quantiles"].shape == (len(LEVELS), 2, 5)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["format"] == "lnbench.statistics/2"
    assert manifest["lnbench"] == lnbench.__version__
    assert (manifest["layers"], manifest["width"], manifest["levels"]) == (2, 5, LEVELS.tolist())
    assert {key: manifest[key] for key in ("model", "weights", "tokenizer")} == {
        key: PROVENANCE[key] for key in ("model", "weights", "tokenizer")
    }
    assert manifest["languages"]["hi"] == {
        "corpus": "abc",
        "sequence_length": 128,
        "tokens": 40,
        "site": site,
        "fingerprint": saved.fingerprint,
    }


def test_several_languages_share_a_folder(tmp_path):
    saved = {language: statistics(language, seed=seed) for seed, language in enumerate(("ur", "en", "zh-Hant"))}
    for one in saved.values():
        one.save(tmp_path)
    assert store.languages(tmp_path) == ["en", "ur", "zh-Hant"]
    assert all(equal(Statistics.load(tmp_path, language), one) for language, one in saved.items())
    newer = statistics("en", seed=7, corpus="other")
    newer.save(tmp_path)
    assert equal(Statistics.load(tmp_path, "en"), newer)
    assert equal(Statistics.load(tmp_path, "ur"), saved["ur"])


def test_another_model_does_not_go_into_the_folder(tmp_path):
    first = statistics()
    first.save(tmp_path)
    others = {name: statistics("en", **{name: "other"}) for name in ("model", "weights", "dtype", "tokenizer")}
    others["width"] = replace(statistics_of(normal(40, 2, 6), language="en"), provenance=PROVENANCE)
    for name, other in others.items():
        with refused(tmp_path, name):
            other.save(tmp_path)
    assert store.languages(tmp_path) == ["hi"]
    assert not (tmp_path / "en.safetensors").exists()
    assert equal(Statistics.load(tmp_path, "hi"), first)


def test_an_unknown_language_lists_those_there(tmp_path):
    for language in ("hi", "en"):
        statistics(language).save(tmp_path)
    with refused("vi", "en, hi", "lnbench stats", tmp_path):
        Statistics.load(tmp_path, "vi")


@pytest.mark.parametrize("language", ["", "../hi", "a/b", "..", ".hidden"])
def test_a_language_code_is_a_file_name(tmp_path, language):
    with refused(repr(language)):
        statistics(language).save(tmp_path / "stats")
    assert not list(tmp_path.iterdir())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        save_file({key: tensor for key, tensor in load_file(path).items() if key != name}, path)

    return change


def edited(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def reshaped(path: Path) -> None:
    tensors = load_file(path)
    save_file(tensors | {"post.quantiles": tensors["post.quantiles"][:50].contiguous()}, path)


def swapped(path: Path) -> None:
    statistics(seed=3, corpus="another").save(path.parent / "other")
    (path.parent / "other" / path.name).replace(path)


@pytest.mark.parametrize(
    ("file", "damage", "named"),
    [
        ("hi.safetensors", cut, ["truncated"]),
        ("hi.safetensors", lambda path: path.write_bytes(b""), ["truncated"]),
        ("hi.safetensors", Path.unlink, ["hi.safetensors"]),
        ("hi.safetensors", without("post.std"), ["std", "(2, 5)"]),
        ("hi.safetensors", without("pre.quantiles"), ["'pre'", "quantiles", "(2, 5)"]),
        ("hi.safetensors", reshaped, ["'post'", "quantiles", "(2, 5)"]),
        ("hi.safetensors", swapped, ["hi.safetensors", "manifest.json"]),
        ("manifest.json", cut, ["manifest.json", "JSON"]),
        ("manifest.json", Path.unlink, ["manifest.json"]),
        ("manifest.json", lambda path: path.write_text("[]"), ["manifest.json", "lnbench.statistics/2"]),
        ("manifest.json", edited(format="lnbench.statistics/9"), ["manifest.json", "lnbench.statistics/2"]),
        ("manifest.json", edited(languages=["hi"]), ["manifest.json", "entries"]),
        ("manifest.json", edited(languages={"hi": {"site": "gate", "tokens": 1}}), ["hi.safetensors", "manifest.json"]),
        ("manifest.json", edited(width=None), ["manifest.json", "entries"]),
        ("manifest.json", edited(width=7), ["positive_rate", "(2, 7)"]),
        ("manifest.json", edited(levels=[0, 1]), ["manifest.json", "levels"]),
    ],
)
def test_damaged_folders_say_what_is_wrong(tmp_path, file, damage, named):
    statistics().save(tmp_path)
    damage(tmp_path / file)
    with refused(tmp_path, *named):
        Statistics.load(tmp_path, "hi")


def test_one_site_is_enough(tmp_path):
    statistics().save(tmp_path)
    tensors = load_file(tmp_path / "hi.safetensors")
    save_file({name: part for name, part in tensors.items() if "pre." not in name}, tmp_path / "hi.safetensors")
    loaded = Statistics.load(tmp_path, "hi")
    assert list(loaded.sites) == ["post"]
    with refused("pre", "post"):
        loaded.at("pre")


def test_no_such_folder(tmp_path):
    with refused(tmp_path / "none", "lnbench stats"):
        Statistics.load(tmp_path / "none", "hi")
    with refused(tmp_path / "none", "lnbench stats"):
        store.languages(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with refused(tmp_path / "file"):
        statistics().save(tmp_path / "file")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_leaves_finished_languages(tmp_path, monkeypatch, error):
    finished = statistics("en", seed=1)
    finished.save(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(_tensors: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"\0" * 100)
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", full)
    for language in ("hi", "en"):
        with refused(tmp_path / f"{language}.safetensors", "No space left on device"):
            statistics(language, seed=2).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert equal(Statistics.load(tmp_path, "en"), finished)
    assert store.languages(tmp_path) == ["en"]


def test_a_kill_between_the_two_files_is_noticed(tmp_path, monkeypatch):
    statistics("en").save(tmp_path)
    statistics("hi").save(tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        statistics("hi", seed=5, corpus="newer").save(tmp_path)
    with refused(tmp_path / "hi.safetensors", tmp_path / "manifest.json"):
        Statistics.load(tmp_path, "hi")
    assert Statistics.load(tmp_path, "en").tokens == 40
