"""The documentation's commands as a user types them: in a shell, in another folder, with lnbench from its wheel."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from lnbench.model.packaged import DEFAULT_MODEL, model_folder
from tests.support.docs_world import World, smaller

CHECKOUT = Path(__file__).resolve().parents[2]
_HUB_MODELS = ("my/model", "Qwen/Qwen3-0.6B-Base", "meta-llama/Llama-3.1-8B", "models/Qwen3-0.6B-Base")
"""Names that pages use. A folder of the same name is taken in place of the hub."""
_TASKS = "$(lnbench tasks)"
_WRITES = ("--out", "-o", "--output_path", "--per-model")
_LM_EVAL = "#!{python}\nimport sys\nfrom lm_eval.__main__ import cli_evaluate\nsys.exit(cli_evaluate())\n"

CLAIMS = {
    r"lnbench (stats --|demo|ppl|sweep (?!.*--dry-run)|reproduce \w+ (?!.*--dry-run)|neurons stability)": r"^text: ",
    "lnbench eval|lnbench stats --": r"(?m)^text: ",
    "lnbench doctor(?! --model)": "lm_eval knows --model lnbench",
    "lnbench doctor --model": "self-check passed",
    "lnbench plugins": "lape(?s:.*)p\\{",
    r"lnbench stats (?!.*--shard)--.*hi": r"(?m)^hi: [\d,]+ documents; \d+ empty",
    "lnbench stats show": "rank error",
    "lnbench select": "written to",
    "lnbench neurons show": r"layers × [\d,]+ neurons; selector",
    r"lnbench neurons overlap \S+$": "by chance",
    r"lnbench neurons overlap \S+ [^-\s]+$": "shared",
    "lnbench neurons stability": "by chance",
    "lnbench neurons import": "→ published.json",
    "lnbench neurons export": "written to",
    "lnbench finetune masked_lora": "use it with --model_args",
    "lnbench finetune inspect": "attention",
    "lnbench ppl": "own − others",
    "lnbench sweep (?!.*--dry-run)": r"(\d+) of \1 cells are measured",
    "lnbench .*--dry-run": r'lm_eval --model lnbench (?s:.*)--include_path "\$\(lnbench tasks\)"',
    r"lnbench leaderboard \S+$": "none",
    "lnbench .*--format latex": r"\\begin\{tabular\}",
    "lnbench reproduce list": "figure1",
    r"lnbench reproduce \w+ --model": "(?s)written to.*as a page: lnbench report",
    "lnbench demo": r"report/index\.html\s*$",
    "lnbench report": "index.html",
    r"lm_eval|lnbench eval": r"\|\s*(acc|exact_match|f1|bits_per_byte)\b",
}
"""Command → what a page says that it prints; all that fit must hold."""


def build(folder: Path) -> Path:
    """Install lnbench's wheel, and the plugin of the pages, in an environment of its own; return its programs' folder.

    What lnbench needs is taken from this environment.
    """
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    for source in (CHECKOUT, CHECKOUT / "tests" / "plugin_package"):
        subprocess.run([*pip, "wheel", *offline, "--wheel-dir", str(folder / "wheels"), str(source)], check=True)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    programs = folder / "venv" / "bin"
    wheels = map(str, (folder / "wheels").glob("*.whl"))
    subprocess.run(
        [*pip, "--python", str(programs / "python"), "install", "--no-deps", "--no-index", *wheels], check=True
    )
    (own,) = (folder / "venv").glob("lib/python*/site-packages")
    (other,) = {path for path in map(Path, sys.path) if path.name == "site-packages" and (path / "torch").is_dir()}
    (own / "what_lnbench_needs.pth").write_text(f"{other}\n")
    (programs / "lm_eval").write_text(_LM_EVAL.format(python=programs / "python"))
    (programs / "lm_eval").chmod(0o755)
    return programs


class WheelWorld(World):
    """A world whose commands run in a shell.

    Args:
        folder: An empty folder.
        model: A tiny model's folder, which is taken for every model that a page names.
    """

    def __init__(self, folder: Path, model: str) -> None:
        super().__init__(folder, model)
        self.programs = build(folder)
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("PYTHON", "LNBENCH_", "VIRTUAL"))
            },
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "LNBENCH_CACHE": str(folder / "cache"),
            "LNBENCH_DATA": str(self.data),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "NUMBA_NUM_THREADS": "1",
        }
        packaged = folder / "cache" / model_folder(DEFAULT_MODEL).relative_to(os.environ["LNBENCH_CACHE"])
        shutil.copytree(model, packaged)

    def page(self, name: str) -> Path:
        here = super().page(name)
        for model in _HUB_MODELS:
            (here / model).parent.mkdir(exist_ok=True)
            (here / model).symlink_to(self.model)
        return here

    def run(self, words: Sequence[str]) -> None:
        """Run one command of a page, small, in the present folder, and look at what it printed and wrote.

        Raises:
            AssertionError: another exit code than 0, a traceback, or a claim of the pages that does not hold.
        """
        self._prepare(words)
        small = smaller(words)
        for option, value in pairwise(small):
            # What a page makes itself is made by its own command, as its reader does.
            if option in _WRITES and (path := Path(value).absolute()) in self.prepared:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                self.prepared.remove(path)
        text = shlex.join(small).replace(f"'{_TASKS}'", f'"{_TASKS}"')
        ended = subprocess.run(
            ["bash", "-c", text], env=self.environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert ended.returncode == 0, f"{text}\n{ended.stdout}\n{ended.stderr}"
        assert "Traceback" not in ended.stderr, f"{text}\n{ended.stderr}"
        shown = f"{ended.stdout}\n{ended.stderr}".strip()
        for begins, claim in CLAIMS.items():
            if re.match(begins, shlex.join(words)):
                assert re.search(claim, shown), f"{text}\ndoes not print {claim!r}:\n{shown}"
        for option, value in pairwise(small):
            if option in _WRITES:
                path = Path(value)
                assert path.is_file() or any(path.iterdir()), f"{text}\nwrote nothing to {path}"
