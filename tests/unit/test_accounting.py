"""Seconds, CPU and bytes by step: nested, in threads, and of several tasks at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine.accounting import STEPS, Account, Pool, Spent, add, spent
from engine.prefetch import ahead


def burn(seconds: float) -> None:
    """Use the CPU for so long, by this thread's own clock."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_step_within_a_step_counts_for_itself() -> None:
    account = Account()
    with account.open():
        with spent("read") as reading:
            burn(0.02)
            with spent("warp", 7):
                burn(0.05)
                time.sleep(0.05)
            reading.size = 11
        with spent("read"):
            pass
    steps = account.steps(0.2)
    assert steps["read"].cpu == pytest.approx(0.02, abs=0.01)
    assert steps["read"].bytes == 11
    assert steps["warp"].cpu == pytest.approx(0.05, abs=0.01)
    assert steps["warp"].seconds >= 0.1
    assert steps["warp"].bytes == 7
    assert list(steps) == [step for step in STEPS if step in steps]  # in one order
    # the rest of the task's time is of no step
    known = steps["read"].seconds + steps["warp"].seconds
    assert steps["other"].seconds == pytest.approx(0.2 - known)


def test_work_in_a_pool_counts_for_whoever_handed_it_over() -> None:
    def work(seconds: float) -> None:
        with spent("forward"):
            burn(seconds)

    with Pool(2) as pool, ThreadPoolExecutor(2) as plain:
        accounts = [Account(), Account()]
        for account, seconds in zip(accounts, (0.02, 0.04), strict=True):
            with account.open():
                list(pool.map(work, [seconds] * 2))
                list(plain.map(work, [seconds]))  # which knows of no account
    for account, seconds in zip(accounts, (0.04, 0.08), strict=True):
        assert account.steps(0)["forward"].cpu == pytest.approx(seconds, abs=0.02)


def test_what_is_loaded_ahead_counts() -> None:
    def load(number: int) -> int:
        with spent("load", number):
            return number

    account = Account()
    with account.open():
        found = [coming.result() for _, coming in ahead(load, [1, 2, 3])]
    assert found == [1, 2, 3]
    assert account.steps(0)["load"].bytes == 6


def test_nothing_is_counted_without_an_account() -> None:
    account = Account()
    with account.open():
        pass
    with spent("read"):
        add("network", 1.0, 5)
    assert "read" not in account.steps(0)


def test_waiting_that_was_measured_elsewhere_is_taken_from_its_step() -> None:
    account = Account()
    with account.open(), spent("read"):
        time.sleep(0.05)
        add("network", 0.04, 1000)
    steps = account.steps(0.05)
    assert steps["network"] == Spent(0.04, 0.0, 1000)
    assert 0.005 < steps["read"].seconds < 0.04


def test_more_waiting_than_time_makes_no_step_negative() -> None:
    account = Account()
    with account.open(), spent("read"):
        add("network", 60.0)  # of several connections at once
    assert account.steps(1.0)["read"].seconds == 0.0


def test_tasks_at_once_share_the_cpu_of_their_process() -> None:
    """Also what threads of libraries took: the sum over tasks is what the process took."""
    began = threading.Barrier(2)
    accounts = [Account(), Account()]

    def task(account: Account) -> None:
        with account.open():
            began.wait()
            square = np.ones((400, 400))
            for _ in range(20):
                square @ square
            began.wait()

    before = time.process_time()
    threads = [threading.Thread(target=task, args=(account,)) for account in accounts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.process_time() - before
    assert sum(account.cpu for account in accounts) == pytest.approx(took, abs=0.05)
    assert accounts[0].cpu == pytest.approx(accounts[1].cpu, abs=0.05)
