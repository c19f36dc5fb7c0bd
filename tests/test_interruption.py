from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ssrseg.interruption import Interrupted, Stop, interruptible, leave_to_parent, until_stopped

SIGNALS = [("SIGINT", "Ctrl-C", 130), ("SIGTERM", "SIGTERM", 143), ("SIGHUP", "SIGHUP", 129)]


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


def handlers() -> list[object]:
    return [signal.getsignal(getattr(signal, name)) for name, _, _ in SIGNALS]


@pytest.mark.parametrize(("name", "shown", "code"), SIGNALS)
def test_the_first_signal_asks_and_the_second_interrupts(name: str, shown: str, code: int) -> None:
    before, done = handlers(), 0
    with pytest.raises(Interrupted) as caught, until_stopped() as stop:
        assert not stop.requested
        send(name)
        assert stop.requested
        done = 1  # the step goes on to its end
        raise stop.error("3 of 9 are in out.")
    assert done == 1
    assert str(caught.value) == f"Stopped by {shown}: 3 of 9 are in out."
    assert 128 + caught.value.signum == code
    with pytest.raises(Interrupted, match=f"Stopped by {shown}: at once"), until_stopped():
        send("SIGTERM")
        send(name)
        done = 2
    assert done == 1
    assert handlers() == before


def test_with_patience_only_a_block_at_once_is_interrupted() -> None:
    with until_stopped(patient=True) as stop:
        send("SIGTERM")
        send("SIGINT")  # as a launcher of several processes sends it on
        assert stop.requested
        with pytest.raises(Interrupted), stop.at_once():
            pytest.fail("a block begun after the signal")
    with until_stopped() as stop:
        stop.ask(signal.SIGTERM)  # that another process got
        assert str(stop.error("2 of 3.")) == "Stopped by SIGTERM: 2 of 3."


def test_inside_at_once_the_first_signal_interrupts() -> None:
    with until_stopped() as stop:
        with pytest.raises(Interrupted, match="at once"), stop.at_once():
            send("SIGTERM")
        assert stop.requested
        with pytest.raises(Interrupted), stop.at_once():
            pytest.fail("a block begun after the signal")
    with until_stopped() as stop:
        with stop.at_once():
            pass
        send("SIGTERM")  # behind the block it asks again
        assert stop.requested


def test_interruptible_and_nested() -> None:
    with pytest.raises(Interrupted, match="at once"), interruptible():
        with until_stopped() as stop:
            send("SIGTERM")
            assert stop.requested
        send("SIGTERM")


def test_an_ignored_signal_stays_ignored() -> None:
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with until_stopped() as stop:
            send("SIGHUP")
            send("SIGHUP")
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    found: list[Stop] = []

    def work() -> None:
        with until_stopped() as stop:
            found.append(stop)

    before = handlers()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers() == before
    assert not found[0].requested


def test_interrupted_survives_a_process_boundary() -> None:
    found = pickle.loads(pickle.dumps(Interrupted(15, "saved")))
    assert (found.signum, found.message, str(found)) == (15, "saved", "saved")


def test_workers_leave_signals_to_their_parent() -> None:
    before = [signal.getsignal(getattr(signal, name)) for name, _, _ in SIGNALS]
    try:
        leave_to_parent(3)
        for name, _, _ in SIGNALS:
            send(name)
    finally:
        for (name, _, _), handler in zip(SIGNALS, before, strict=True):
            signal.signal(getattr(signal, name), handler)


PROGRAM = """
import sys, time
from ssrseg.interruption import until_stopped
with until_stopped() as stop:
    print("ready", flush=True)
    for step in range(200):
        time.sleep(0.05)
        if stop.requested:
            print(f"saved {step}", flush=True)
            sys.exit(128 + stop.signum)
"""


@pytest.mark.parametrize(("name", "_shown", "code"), SIGNALS)
def test_a_real_process_saves_and_ends(tmp_path: Path, name: str, _shown: str, code: int) -> None:
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(getattr(signal, name))
    assert program.stdout.read().startswith("saved")
    program.stdout.close()
    assert program.wait(timeout=30) == code
