"""Workers elsewhere that cannot start."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed.deploy.spec import ProcessInterface

from engine.clusters import managed
from engine.clusters.settings import ClusterSettings, Group
from engine.errors import RunError


class Blind(ProcessInterface):
    """As Dask's worker over SSH on a host that does not see the certificate."""

    def __init__(self, scheduler: str, name: str) -> None:
        super().__init__(scheduler=scheduler, name=name)

    async def start(self) -> None:
        raise Exception("Worker failed to start")


@pytest.mark.parametrize("tls", [True, False])
def test_a_host_that_does_not_see_the_certificate(
    tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "_ssh", lambda *_: {"a": {"cls": Blind, "options": {}}})
    groups = (Group(name="a", hosts=("one",)),)
    settings = ClusterSettings(
        kind="ssh", host="127.0.0.1", folder=str(tmp_path), groups=groups, tls=tls
    )
    with (
        pytest.raises(RunError, match="cannot be asked for") as caught,
        managed.open_managed(settings),
    ):
        pass
    assert caught.value.got == "Worker failed to start"
    assert (f"all hosts see {tmp_path}" in str(caught.value.remedy)) == tls
    assert not list(tmp_path.iterdir())  # no key is left
