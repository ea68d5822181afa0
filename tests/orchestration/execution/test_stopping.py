"""A request to stop is heard in every phase: before the first trial it ends the start, later trials save their work."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refsweep.datasets.problems import InputError
from refsweep.datasets.storage.store import Store
from refsweep.orchestration.cli.process import exit_code
from refsweep.orchestration.cli.sweep import report
from refsweep.orchestration.execution import stopping
from refsweep.orchestration.execution.inline import InlineBackend
from refsweep.orchestration.execution.stopping import stop_requests
from refsweep.orchestration.ledger.records import SweepState
from refsweep.orchestration.search.protocol import STOP_MARK, Room, StopRequested
from refsweep.orchestration.spec.errors import StopRequestedError
from refsweep.orchestration.spec.schema import SweepSpec
from refsweep.orchestration.sweep import Sweep, check_spec, find_sweep, open_sweep
from refsweep.orchestration.train import train_once

SIGNALS = [signal.SIGINT, signal.SIGTERM]
ASKED: list[Callable[[Store], None]] = [
    lambda _: signal.raise_signal(signal.SIGINT),
    lambda _: signal.raise_signal(signal.SIGTERM),
    lambda folder: folder.write(STOP_MARK, b""),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "STOP_POLL_S", 0.05)


@pytest.mark.parametrize("ask", ASKED, ids=["ctrl-c", "sigterm", "stop"])
def test_before_there_is_anything_to_save_a_request_ends_what_is_waited_for(
    ask: Callable[[Store], None], tmp_path: Path
):
    folder, began = Store(str(tmp_path)), time.monotonic()
    before = [signal.getsignal(number) for number in SIGNALS]

    def wait() -> None:
        ask(folder)
        threading.Event().wait(20)

    with stop_requests(folder) as requests, pytest.raises(StopRequestedError), requests.at_once():
        wait()
    assert time.monotonic() - began < 5
    assert requests()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("ask", ASKED, ids=["ctrl-c", "sigterm", "stop"])
def test_a_request_between_two_phases_is_not_lost(ask: Callable[[Store], None], tmp_path: Path):
    folder = Store(str(tmp_path))
    folder.write(STOP_MARK, b"")  # meant for an earlier driver
    with stop_requests(folder) as requests:
        with requests.at_once():
            pass
        ask(folder)
        with pytest.raises(StopRequestedError), requests.at_once():
            raise AssertionError("it was asked before")


def test_later_a_request_is_only_noted_and_a_second_ctrl_c_ends_at_once(tmp_path: Path):
    with stop_requests(Store(str(tmp_path))) as requests:
        signal.raise_signal(signal.SIGTERM)
        assert requests()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


class Waiting(InlineBackend):
    """Finds room once `arrives` is set: nodes, or a Ray that starts."""

    def __init__(self) -> None:
        self.waits, self.arrives = threading.Event(), threading.Event()

    def room(self, spec: SweepSpec, stop_requested: StopRequested) -> Room:
        self.waits.set()
        self.arrives.wait(20)
        return super().room(spec, stop_requested)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    content = {
        "name": "s",
        "trainable": "toy",
        "data": "none",
        "storage": str(tmp_path),
        "tracking": "none",
        "objective": {"metric": "loss", "mode": "min"},
        "search": {"trials": 2, "sampler": "random", "pruner": "none"},
        "resources": {"wait_s": 60},
        "fixed": {"epochs": 2},
    }
    return open_sweep(check_spec(content))


@pytest.mark.parametrize("how", ["sigterm", "stop"])
def test_a_sweep_that_waits_for_nodes_stops_and_says_so_and_goes_on_later(
    how: str, sweep: Sweep, capsys: pytest.CaptureFixture[str]
):
    backend, answered = Waiting(), []

    def ask() -> None:
        backend.waits.wait(20)
        if how == "stop":
            with find_sweep(sweep.spec.ledger_url, "s") as other:
                answered.append(other.stop(30))
        else:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    outcome = sweep.run(backend)
    assert outcome.state is SweepState.STOPPED
    assert sweep.ledger.trials == []
    assert exit_code(lambda: report(sweep, outcome, as_json=False)) == 1
    assert "sweep s stopped: `refsweep sweep resume s` continues it" in capsys.readouterr().err
    thread.join(30)
    assert answered == ([SweepState.STOPPED] if how == "stop" else [])
    with find_sweep(sweep.spec.ledger_url, "s") as again:
        assert again.run(InlineBackend()).state is SweepState.FINISHED


def test_a_sweep_asked_to_stop_while_its_room_is_found_starts_no_trial(sweep: Sweep):
    backend = Waiting()
    backend.arrives.set()
    backend.run = lambda *_: pytest.fail("it was to stop")  # type: ignore[method-assign]
    found = backend.room

    def room(spec: SweepSpec, stop_requested: StopRequested) -> Room:
        Store(spec.storage).child("s").write(STOP_MARK, b"")
        return found(spec, stop_requested)

    backend.room = room  # type: ignore[method-assign]
    assert sweep.run(backend).state is SweepState.STOPPED
    sweep.close()


def trained(folder: Path, tell: Callable[[str], None] = lambda _: None, *sets: str) -> dict[str, Any]:
    return train_once("toy", "none", str(folder), ["epochs=3", *sets], "cpu", tell)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_training_that_is_asked_to_stop_leaves_a_checkpoint_and_goes_on_as_if_undisturbed(
    number: signal.Signals, tmp_path: Path
):
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        if line.startswith("epoch 1/"):
            signal.raise_signal(number)

    stopped = trained(tmp_path / "a", tell)
    assert (stopped["final"], stopped["checkpoint"] is not None) == (False, True)
    assert said[-1] == "stopped; a checkpoint is written"
    whole, again = trained(tmp_path / "b"), trained(tmp_path / "a")
    assert again["final"]
    assert again["metrics"] == whole["metrics"]


def test_a_second_ctrl_c_ends_a_training_at_once(tmp_path: Path):
    def tell(line: str) -> None:
        if line.startswith("epoch 1/"):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, tell)


def test_a_training_that_can_not_be_is_refused_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device must be auto or cpu: PyTorch finds no CUDA device here, got 'cuda'"):
        train_once("toy", "none", str(tmp_path), [], "cuda", print)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--out can't be used: Not a directory"):
        trained(tmp_path / "file" / "x")
    with pytest.raises(InputError, match="--out must be a folder, got the file"):
        trained(tmp_path / "file")
    for seed in (2**64, -1, 10**40):
        with pytest.raises(InputError, match=r"seed must be in 0\.\.2147483648"):
            trained(tmp_path, print, f"seed={seed}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
