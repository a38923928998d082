"""Commands keep what other packages say in a log file; bars are of lnbench, on a terminal, and in one unit of time."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm.std import tqdm

from lnbench import quiet
from lnbench.console import duration
from lnbench.progress import Bar


class Terminal(io.StringIO):
    """What a program writes to a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def silence(own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A quiet process; the folder of its logs."""
    monkeypatch.setenv("LNBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv(quiet.VARIABLE, raising=False)
    quiet.begin()
    quiet.silence_bars()
    yield tmp_path / "logs"
    quiet.end()


@pytest.fixture
def handler() -> Iterator[io.StringIO]:
    """What a handler of the root logger, and one of another package's own, write."""
    written = io.StringIO()
    one = logging.StreamHandler(written)
    loggers = [logging.getLogger(), logging.getLogger("another.package")]
    for logger in loggers:
        logger.addHandler(one)
    loggers[1].propagate = False
    yield written
    for logger in loggers:
        logger.removeHandler(one)
    loggers[1].propagate = True


def test_messages_of_others_go_to_the_log_and_ours_and_errors_are_shown(
    silence: Path, handler: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("elsewhere", "another.package", "lnbenchmark"):
        logging.getLogger(name).warning("hidden of %s", name)
        logging.getLogger(name).error("error of %s", name)
    logging.getLogger("lnbench.files").warning("ours")
    with quiet.lifted():
        logging.getLogger("elsewhere").warning("lifted")
    shown = handler.getvalue().splitlines()
    assert shown == ["error of elsewhere", "error of another.package", "error of lnbenchmark", "ours", "lifted"]
    (log,) = silence.glob("*.log")
    assert [line for line in log.read_text().splitlines() if "hidden" in line].__len__() == 3
    quiet.end()
    assert str(log) in capsys.readouterr().err
    logging.getLogger("elsewhere").warning("again")
    assert handler.getvalue().splitlines()[-1] == "again"


def test_warnings_are_told_apart_by_who_gives_them(silence: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import warnings\ndef warn(text):\n    warnings.warn(text, stacklevel=2)\n"
    ours: dict[str, object] = {"__name__": "lnbench.neurons"}
    theirs: dict[str, object] = {"__name__": "transformers.models"}
    for module in (ours, theirs):
        exec(code, module)
    show = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show  # as outside a test, where no filter keeps them
        ours["warn"]("of ours")  # type: ignore[operator]
        theirs["warn"]("of theirs")  # type: ignore[operator]
    assert capsys.readouterr().err == "lnbench: of ours\n"
    assert "of theirs" in next(silence.glob("*.log")).read_text()


def test_without_a_writable_cache_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LNBENCH_CACHE", str(tmp_path / "file"))
    log = quiet.LogFile()
    log.write(logging.LogRecord("elsewhere", logging.WARNING, "", 0, "text", (), None))
    assert log.account() is None


def test_only_our_bars_are_shown_and_those_on_a_terminal_alone(silence: Path) -> None:
    for bar, stream, shown in [
        (Bar, Terminal(), True),
        (Bar, io.StringIO(), False),
        (tqdm, Terminal(), False),
        (tqdm, io.StringIO(), False),
    ]:
        for _ in bar(range(3), "some bar", file=stream, disable=False):
            pass
        assert ("some bar" in stream.getvalue()) is shown, (bar, stream)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.one_of(st.none(), st.just(30)))
def test_a_bar_is_one_line_that_is_gone_at_its_end(done: int, total: int | None) -> None:
    stream = Terminal()
    with Bar(total=total, desc="counting", unit="tok", file=stream, mininterval=0) as bar:
        for _ in range(done):
            bar.update()
    written = stream.getvalue()
    assert "\n" not in written
    assert written.split("\r")[-1].strip() == ""
    assert "counting" in written


@given(st.floats(0, 1e6))
def test_a_time_has_one_unit(seconds: float) -> None:
    number, unit = duration(seconds).split()
    scale = {"s": 1, "min": 60, "h": 3600, "days": 86400}[unit]
    assert float(number) * scale == pytest.approx(seconds, abs=0.51 * scale)
    assert scale == 1 or seconds >= 1.5 * scale


@pytest.mark.parametrize(
    ("given", "left", "verbose"),
    [
        (["eval", "--verbose", "--tasks", "x"], ["eval", "--tasks", "x"], True),
        (["--verbose", "eval"], ["eval"], True),
        (["generate", "--", "--verbose"], ["generate", "--", "--verbose"], False),
        (["eval", "--verbosity", "INFO"], ["eval", "--verbosity", "INFO"], False),
    ],
)
def test_the_option_may_be_anywhere(
    monkeypatch: pytest.MonkeyPatch, given: list[str], left: list[str], verbose: bool
) -> None:
    monkeypatch.setenv(quiet.VARIABLE, "")
    quiet.take_option(given)
    assert (given, quiet.is_verbose()) == (left, verbose)
