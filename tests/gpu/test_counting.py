"""Statistics on the device: the kernels' counts, whole models, and an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lnbench import Statistics, collect_statistics
from lnbench.statistics import kernels
from lnbench.statistics.bins import BINS, Bins
from lnbench.statistics.layer_accumulator import Histogram, LayerAccumulator
from tests.support.samples import normal
from tests.support.tiny import build

BLOCKS = [torch.randint(3, 250, (4, 40), generator=torch.Generator().manual_seed(seed)) for seed in range(6)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "width"), [(300, 40), (129, 33), (5, 1), (4096, 257)])
def test_the_devices_kernel_counts_as_torch_does(device: str, dtype: torch.dtype, tokens: int, width: int) -> None:
    way = kernels._way(torch.device(device).type)
    assert device == "cpu" or way == "triton", "the Triton kernels did not compile; see the log"
    values = (normal(tokens, width) * torch.linspace(0.01, 50, width)).to(device, dtype)
    bins = Bins(*(part.to(device) for part in (normal(width), normal(width).abs() + 0.01, normal(width).abs() + 1)))
    rows = torch.randperm(tokens, generator=torch.Generator().manual_seed(0))[: tokens - tokens // 4].to(device)
    counted = {}
    for name in (way, "torch"):
        account = LayerAccumulator(width, torch.device(device))
        histogram = Histogram(bins, torch.zeros(width, BINS, dtype=torch.int32, device=device))
        kernels.add_tokens(values, 2 * values, rows, account.moments, histogram, way=name)
        counted[name] = account.moments, histogram.counts
    (moments, counts), (expected, expected_counts) = counted[way], counted["torch"]
    assert torch.equal(counts, expected_counts)
    for name in ("positive", "min", "max"):
        assert torch.equal(getattr(moments, name), getattr(expected, name)), name
    torch.testing.assert_close(moments.sums, expected.sums, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(moments.squares, expected.squares, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_statistics_are_those_of_the_cpu(device: str, dtype: torch.dtype, close: float) -> None:
    expected = collect_statistics(build("llama"), BLOCKS, language="xx")
    found = collect_statistics(build("llama").to(device, dtype), BLOCKS, language="xx")
    assert found.tokens == expected.tokens
    for name in ("mean", "std", "min", "max"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=close, atol=close)
    torch.testing.assert_close(found.positive_rate, expected.positive_rate, rtol=0, atol=close)


def test_a_killed_run_continues_to_the_same_numbers(
    device: str, tiny_model: str, tiny_corpus: str, tmp_path: Path
) -> None:
    stop = (
        "import os, signal\n"
        "from lnbench.statistics.accumulator import Accumulator\n"
        "check, seen = Accumulator.check, []\n"
        "def stop(self, *args, **options):\n"
        "    check(self, *args, **options)\n"
        "    seen.append(1)\n"
        "    if len(seen) == 6: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Accumulator.check = stop\n"
    )
    run = "from lnbench.cli.__main__ import main\nmain()\n"

    def counted(folder: str, *, killed: bool = False) -> int:
        words = ["stats", "--model", tiny_model, "--model-args", f"device={device}", "--corpus", tiny_corpus]
        words += ["--languages", "en", "--tokens", "400", "--length", "32", "--batch-size", "1", "--save-every", "0"]
        command = [sys.executable, "-c", (stop if killed else "") + run, *words, "--out", str(tmp_path / folder)]
        return subprocess.run(command, check=False, capture_output=True, env={**os.environ}).returncode

    assert counted("whole") == 0
    assert counted("killed", killed=True) == -signal.SIGKILL
    assert counted("killed") == 0
    whole, killed = (Statistics.load(tmp_path / name, "en") for name in ("whole", "killed"))
    assert killed.tokens == whole.tokens
    assert torch.equal(killed.positive_rate, whole.positive_rate)
    torch.testing.assert_close(killed.mean, whole.mean)
    torch.testing.assert_close(killed.quantile(0.9), whole.quantile(0.9))
