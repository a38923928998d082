"""What cannot fit is refused with the setting that makes it fit, on machines and models with made-up sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench.errors import LnbenchError
from lnbench.estimates import REMEDIES, LoadedAs, ModelSize, Room, Work, check, fit
from tests.support.messages import lacks, refused

GIB = 2**30
LLAMA = ModelSize(
    parameters=8_030_261_248,
    embedded=2 * 525_336_576,
    layers=32,
    neurons=32 * 14_336,
    hidden=4096,
    heads=32,
    vocabulary=128_256,
    dtype="float32",
)
STATISTICS = Work("collecting Statistics", read=10**8, counted=16)
TRAINING = Work("fine-tuning", trained=10**6, length=512, rows=16, parameters=20_000_000)


def room(memory: float, *, together: float | None = None, disk: float = 2000) -> Room:
    """A machine, in GiB."""
    return Room("cuda:0", memory * GIB, (memory if together is None else together) * GIB, lambda _: disk * GIB)


@pytest.mark.parametrize(
    ("work", "loading", "machine", "named"),
    [
        pytest.param(STATISTICS, LoadedAs(), room(24), ["dtype=bfloat16"], id="half the bytes are enough"),
        pytest.param(STATISTICS, LoadedAs(), room(16), ["load_in_4bit=True"], id="half are not"),
        pytest.param(STATISTICS, LoadedAs(), room(24, together=96), ["dtype=bfloat16"], id="one GPU before several"),
        pytest.param(
            STATISTICS, LoadedAs("bfloat16"), room(12, together=48), ["parallelize=True"], id="two GPUs in bfloat16"
        ),
        pytest.param(STATISTICS, LoadedAs("bfloat16"), room(4), ["no setting"], id="nothing helps"),
        pytest.param(
            replace(STATISTICS, rows=4096, length=4096), LoadedAs(), room(60), ["batch-size 1"], id="a large batch"
        ),
        pytest.param(
            replace(STATISTICS, rows=4096, length=4096),
            LoadedAs(),
            room(30),
            ["batch-size 1", "dtype=bfloat16"],
            id="two settings together",
        ),
        pytest.param(TRAINING, LoadedAs("bfloat16"), room(20), ["batch-size 1"], id="a large batch in training"),
        pytest.param(
            replace(TRAINING, rows=1, length=2048),
            LoadedAs("bfloat16"),
            room(20),
            ["gradient_checkpointing=True"],
            id="long rows in training",
        ),
        pytest.param(
            Work("perplexity", read=10**6, states=10**7),
            LoadedAs(),
            room(60),
            ["kl-tokens 0"],
            id="many states",
        ),
        pytest.param(
            Work("perplexity", read=10**10, text=10**10), LoadedAs("bfloat16"), room(80), ["tokens"], id="too much text"
        ),
    ],
)
def test_the_setting_that_makes_it_fit_is_named(
    work: Work, loading: LoadedAs, machine: Room, named: list[str], tmp_path: Path
) -> None:
    with refused("cuda:0", *named):
        fit(LLAMA, loading, work, machine, tmp_path)


def test_what_fits_passes(tmp_path: Path) -> None:
    fit(LLAMA, LoadedAs("bfloat16"), STATISTICS, room(80), tmp_path)
    fit(LLAMA, LoadedAs(four_bit=True), TRAINING, room(80), tmp_path)


def test_a_full_disk_is_refused_with_the_option_of_the_folder(tmp_path: Path) -> None:
    with refused(tmp_path, "--out", "0.5 GiB"):
        fit(LLAMA, LoadedAs("bfloat16"), STATISTICS, room(80, disk=0.5), tmp_path)
    fit(LLAMA, LoadedAs("bfloat16"), replace(STATISTICS, stored=0), room(80, disk=0.5), tmp_path)


def test_a_command_that_lacks_a_setting_does_not_name_it(tmp_path: Path) -> None:
    with pytest.raises(LnbenchError) as caught:
        fit(LLAMA, LoadedAs(), STATISTICS, room(24), tmp_path, {"dtype=bfloat16": ""})
    assert lacks(str(caught.value), "dtype=bfloat16")


@settings(max_examples=60)
@given(
    memory=st.integers(1, 200),
    more=st.integers(0, 200),
    rows=st.integers(1, 512),
    states=st.integers(0, 10**7),
    parameters=st.sampled_from([0, 10**8]),
)
def test_what_a_refusal_names_fits(memory: int, more: int, rows: int, states: int, parameters: int) -> None:
    """Under the settings that are named the same work is accepted; where none is named, no set of them is enough."""
    machine = room(memory, together=memory + more)
    work = Work("work", read=10**6, rows=rows, states=states, trained=10 * parameters, parameters=parameters)
    names = {remedy.name: f"<{remedy.name}>" for remedy in REMEDIES}
    state = (LoadedAs(), work)
    try:
        fit(LLAMA, *state, machine, Path(), names)
    except LnbenchError as error:
        message = str(error)
    else:
        return
    chosen = [remedy for remedy in REMEDIES if f"<{remedy.name}>" in message]
    impossible = "no setting" in message
    assert bool(chosen) != impossible
    for remedy in REMEDIES if impossible else chosen:
        state = remedy.applied(*state)
    if impossible:
        with refused("no setting"):
            fit(LLAMA, *state, machine, Path(), names)
    else:
        fit(LLAMA, *state, machine, Path(), names)


def test_a_models_size_is_read_from_its_configuration(tiny_model: str, tmp_path: Path) -> None:
    with refused("cuda:0", "no setting"):
        check(tiny_model, {}, STATISTICS, tmp_path, room=room(1e-6))
    assert check(tiny_model, {}, STATISTICS, tmp_path, room=room(80)) is not None
    assert check(str(tmp_path / "none"), {}, STATISTICS, tmp_path, room=room(0)) is None


def test_this_machine_has_room(tmp_path: Path) -> None:
    here = Room.here("cpu")
    assert here.memory > 0
    assert here.disk(tmp_path / "not" / "there" / "yet") > 0
