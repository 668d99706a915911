"""SIGTERM and Ctrl-C end a process in order, whatever other code does with them."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from nacdeploy.base.outside import leaving

DEADLINE_S = 20.0


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    former = signal.getsignal(signal.SIGTERM)
    with leaving.on_signals():
        yield
    signal.signal(signal.SIGTERM, former)


def waited() -> None:
    """Run for as long as nothing is raised."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_that_other_code_drops_is_raised_again(number: int) -> None:
    dropped = []
    try:
        os.kill(os.getpid(), number)
    except BaseException as error:
        dropped.append(error)
    with pytest.raises(leaving.Terminated) as raised:
        waited()
    assert (len(dropped), raised.value.number) == (1, number)


class Dropping:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_signal_in_a_callback_whose_errors_python_drops_is_raised_again(capfd: pytest.CaptureFixture[str]) -> None:
    dropping = Dropping()
    del dropping
    with pytest.raises(leaving.Terminated):
        waited()
    assert capfd.readouterr().err == ""


def test_second_termination_cuts_no_cleanup_short() -> None:
    cleaned = []
    with pytest.raises(leaving.Terminated):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)  # longer than a signal that was dropped takes to come again
            cleaned.append(True)
    assert cleaned == [True]


def test_held_signal_waits_and_no_library_takes_its_handler() -> None:
    done = []
    with pytest.raises(leaving.Terminated), leaving.held():
        signal.signal(signal.SIGTERM, lambda number, frame: done.append("taken"))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        done.append("whole")
    assert done == ["whole"]


def test_second_signal_does_not_wait_for_a_held_block() -> None:
    with leaving.held():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(leaving.Terminated):
            os.kill(os.getpid(), signal.SIGINT)
        leaving._asked.clear()
