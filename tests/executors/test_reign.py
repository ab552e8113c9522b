"""One driver at a time, and none that was replaced decides any more."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from entries import make_recipe

from tokenmill import storage
from tokenmill.errors import IdentityError
from tokenmill.executors import reign as module
from tokenmill.executors.driver import Driver, run_recipe
from tokenmill.executors.graph import lay_out, write_run
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.reign import Reign, newest_epoch, reign_over
from tokenmill.executors.status import driver_of


def test_claims_are_numbered_and_leave_no_driver_behind(tmp_path: Path) -> None:
    run = str(tmp_path)
    for epoch in (1, 2):
        with reign_over(run) as reign:
            assert reign.epoch == epoch == newest_epoch(run)
            driver = driver_of(run)
            assert driver is not None
            assert (driver["pid"], driver["epoch"]) == (os.getpid(), epoch)
            reign.check()
        assert driver_of(run) is None


def elsewhere(run: Path, number: int) -> dict[str, Any]:
    driver = {"epoch": 1, "host": "elsewhere", "pid": 7, "started": "1", "machine": "x", "number": number}
    storage.write_atomic(str(run / "driver.json"), storage.dump_json(driver))
    storage.publish_once(str(run / "drivers/000001.json"), storage.dump_json(driver))
    return driver


def test_a_silent_driver_elsewhere_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 1.5)
    elsewhere(tmp_path, 5)
    old = Reign(str(tmp_path), 1)
    old.check()
    with reign_over(str(tmp_path)) as reign:
        assert reign.epoch == 2
        with pytest.raises(IdentityError, match="another driver has taken over this run"):
            old.check()


def test_a_living_driver_elsewhere_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 5.0)
    elsewhere(tmp_path, 5)
    timer = threading.Timer(0.5, lambda: elsewhere(tmp_path, 6))
    timer.start()
    with pytest.raises(IdentityError, match="process 7 on elsewhere"), reign_over(str(tmp_path)):
        pass
    timer.join()
    assert newest_epoch(str(tmp_path)) == 1


def test_a_replaced_driver_launches_nothing(text_folder: Path, tmp_path: Path) -> None:
    recipe, run = make_recipe(text_folder), str(tmp_path / "run")
    nodes = lay_out(recipe, run)
    write_run(recipe, run, nodes)
    with reign_over(run) as reign:
        driver = Driver(nodes, LocalExecutor(), reign)
        storage.publish_once(storage.join(run, "drivers/000002.json"), b"{}")
        with pytest.raises(IdentityError, match="taken over"):
            driver.tick()
    assert not nodes["upper"].folder.launch_order()


def test_launches_say_which_driver_decided_them(text_folder: Path, tmp_path: Path) -> None:
    recipe, run = make_recipe(text_folder), str(tmp_path / "run")
    run_recipe(recipe, run, LocalExecutor())
    folder = lay_out(recipe, run)["upper"].folder
    assert folder.intent(folder.launch_order()[0])["epoch"] == 1
