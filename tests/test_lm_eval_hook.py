"""The import hook that tells lm-eval of the model ``lnbench``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import lnbench

pytestmark = pytest.mark.slow

PACKAGE = Path(lnbench.__file__).parent
CHECKOUT = PACKAGE.parent
PTH = PACKAGE / "lnbench_lm_eval.pth"

LOOK_UP = """
import sys
from lm_eval.api.registry import model_registry
{first}
print(dict(model_registry.items()).get("lnbench"), "lnbench.lm" in sys.modules, "torch" in sys.modules)
print([finder for finder in sys.meta_path if "nbench" in repr(finder)])
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the .pth file and lnbench, as an installation has them."""
    shutil.copy(PTH, tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "lnbench", ignore=shutil.ignore_patterns("__pycache__", "data"))
    return tmp_path


def start(site: Path, code: str, *options: str, variables: Mapping[str, str] | None = None) -> str:
    """What a fresh Python prints that treats ``site`` as a site folder, and runs ``code`` then."""
    # An lnbench that is installed beside the tests must not answer in place of the one in the folder.
    wanted = (variables or {}).get("PYTHONPATH")
    forget = (
        "import sys\n"
        f"sys.path[:] = [path for path in sys.path if path != {str(CHECKOUT)!r} or path == {wanted!r}]\n"
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'nbench' not in repr(finder)]\n"
    )
    code = f"{forget}import site; site.addsitedir({str(site)!r}, set())\n{code}"
    # Away from the checkout, so that lnbench is found in the site folder or not at all.
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(variables or {}),
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    "first",
    [
        "import lm_eval.models",
        "from lm_eval.models.dummy import DummyLM",
        "import importlib, lm_eval.models; importlib.reload(lm_eval.models)",
        f"import site; site.addsitedir({str(PACKAGE)!r}, set()); import lm_eval.models",
    ],
    ids=["models", "submodule", "reload", "twice"],
)
def test_lm_eval_knows_the_model_without_importing_it(site: Path, first: str) -> None:
    target, *imported = start(site, LOOK_UP.format(first=first)).split()[:3]
    assert target == "lnbench.lm:LNBenchLM"
    assert imported[0] == "False"


def test_the_finder_takes_itself_off(site: Path) -> None:
    assert start(site, LOOK_UP.format(first="import lm_eval.models")).splitlines()[1] == "[]"


def test_the_module_keeps_its_own_loader(site: Path) -> None:
    code = "import inspect, lm_eval.models as m; print(type(m.__loader__).__name__, vars(m.__loader__).keys())\n"
    shown = start(site, code + "print('def _register_all_models' in inspect.getsource(m))")
    assert shown == "SourceFileLoader dict_keys(['name', 'path'])\nTrue\n"


def test_lm_eval_imported_before(tmp_path: Path) -> None:
    late = f"import lm_eval.models, site; site.addsitedir({str(tmp_path)!r}, set())"
    shutil.copy(PTH, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    path = {"PYTHONPATH": str(CHECKOUT)}
    shown = start(empty, LOOK_UP.format(first=late), variables=path).splitlines()
    assert shown[0].startswith("lnbench.lm:LNBenchLM")
    assert shown[1] == "[]"


def test_a_name_that_is_taken_stays(site: Path) -> None:
    first = "model_registry.register('lnbench', target='elsewhere:Model'); import lm_eval.models"
    assert start(site, LOOK_UP.format(first=first)).startswith("elsewhere:Model")


@pytest.mark.parametrize(
    ("models", "expected"),
    [("1 / 0", "ZeroDivisionError"), ("", "None"), (None, "ModuleNotFoundError")],
    ids=["raising", "without a registry", "missing"],
)
def test_another_lm_eval_behaves_as_without_the_hook(site: Path, models: str | None, expected: str) -> None:
    (site / "lm_eval").mkdir()
    (site / "lm_eval" / "__init__.py").touch()
    if models is not None:
        (site / "lm_eval" / "models.py").write_text(models)
    code = """
import sys
sys.path.insert(0, ".")
error = None
try:
    import lm_eval.models
except Exception as raised:
    error = type(raised).__name__
print(error)
"""
    assert start(site, code).strip() == expected


def test_what_is_left_after_the_checkout_was_deleted(site: Path) -> None:
    shutil.rmtree(site / "lnbench")
    assert start(site, "") == ""
    assert start(site, LOOK_UP.format(first="import lm_eval.models")).startswith("None")


def test_starting_python_imports_nothing(site: Path) -> None:
    shown = "import sys; print(sorted(sys.modules))"
    with_hook = start(site, shown)
    assert (
        with_hook
        == subprocess.run(
            [sys.executable, "-c", f"import site; {shown}"], capture_output=True, text=True, cwd=site, check=True
        ).stdout
    )
    assert "lnbench" not in with_hook


def test_the_hook_imports_only_the_standard_library(site: Path) -> None:
    code = "import sys; import lnbench._lm_eval_hook; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(start(site, code).split())
    before = set(start(site, code.replace("import lnbench._lm_eval_hook; ", "")).split())
    assert loaded - before - set(sys.stdlib_module_names) == {"lnbench"}


def test_it_is_one_line_that_python_runs() -> None:
    line = PTH.read_text(encoding="utf-8")
    assert line.startswith("import ")
    assert line.count("\n") == 1


def test_the_wheel_carries_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(CHECKOUT)], check=True)
    (wheel,) = tmp_path.glob("lnbench-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {"lnbench_lm_eval.pth", "lnbench/_lm_eval_hook.py", "lnbench/hookspecs.py"} <= names
        assert {"lnbench/tasks/demo/_group.yaml", "lnbench/py.typed"} <= names
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "[lm_eval.models]\nlnbench = lnbench.lm:LNBenchLM" in archive.read(entry_points).decode()
        archive.extractall(tmp_path / "site")
    assert start(tmp_path / "site", LOOK_UP.format(first="import lm_eval.models")).startswith("lnbench.lm:LNBenchLM")
