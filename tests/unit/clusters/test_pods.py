"""What opening a cluster on Kubernetes creates, by a stub that composes as dask-kubernetes does."""

from __future__ import annotations

import enum
import sys
import threading
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from support.operator_schemas import require

import engine.clusters.kubernetes as kubernetes
from engine.clusters.settings import ClusterSettings, load_cluster
from engine.errors import RunError

SETTINGS = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "cluster.yaml"


class CreateMode(enum.Enum):
    CREATE_ONLY = "CREATE_ONLY"
    CREATE_OR_CONNECT = "CREATE_OR_CONNECT"


class KubeCluster:
    """Keeps what would be created; `there` are names of clusters that are in the namespace."""

    made: list[dict[str, Any]]
    there: set[str]
    closed: threading.Event
    refuses: Exception | None = None
    starts: threading.Event | None = None

    def __init__(
        self,
        *,
        custom_cluster_spec: dict[str, Any],
        namespace: str,
        create_mode: CreateMode = CreateMode.CREATE_OR_CONNECT,
    ) -> None:
        if self.refuses is not None:
            raise self.refuses
        if self.starts is not None:
            self.starts.wait()
        self.name, self.namespace = custom_cluster_spec["metadata"]["name"], namespace
        if self.name in self.there:
            assert create_mode is CreateMode.CREATE_ONLY
            raise ValueError(f"Cluster {self.name} already exists")
        self.there.add(self.name)
        self.made.append(custom_cluster_spec)

    def add_worker_group(
        self, name: str, n_workers: int = 3, custom_spec: dict[str, Any] | None = None
    ) -> None:
        self.made.append(
            {
                "apiVersion": "kubernetes.dask.org/v1",
                "kind": "DaskWorkerGroup",
                "metadata": {"name": f"{self.name}-{name}", "namespace": self.namespace},
                "spec": {"cluster": f"{self.name}", "worker": custom_spec},
            }
        )

    def __enter__(self) -> KubeCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.there.remove(self.name)
        self.closed.set()


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> type[KubeCluster]:
    """Stands for the package, whose own dependencies need not be here."""

    class Fresh(KubeCluster):
        made: list[dict[str, Any]] = []  # noqa: RUF012
        there: set[str] = set()  # noqa: RUF012
        closed = threading.Event()

    names = ("dask_kubernetes", "operator", "kubecluster", "kubecluster")
    for end in range(1, len(names) + 1):
        module: Any = types.ModuleType(".".join(names[:end]))
        module.KubeCluster, module.CreateMode = Fresh, CreateMode
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(kubernetes, "Client", nullcontext)
    return Fresh


@pytest.fixture
def settings() -> ClusterSettings:
    return load_cluster(str(SETTINGS))


def test_what_is_created_is_what_the_operator_defines(
    operator: type[KubeCluster], settings: ClusterSettings
) -> None:
    with kubernetes.open_kubernetes(settings, preload=("engine.products.registry",)) as pods:
        assert pods.gpus
        assert len(operator.there) == 1
    assert not operator.there
    cluster, group = operator.made
    require(cluster, "daskcluster")
    require(group, "daskworkergroup")
    name = cluster["metadata"]["name"]
    assert group["metadata"]["name"] == f"{name}-predictors"
    assert group["spec"]["worker"]["replicas"] == settings.groups[1].workers
    assert "GPU=2" in group["spec"]["worker"]["spec"]["containers"][0]["args"]


def test_two_runs_in_a_namespace_have_a_cluster_each(
    operator: type[KubeCluster], settings: ClusterSettings
) -> None:
    with kubernetes.open_kubernetes(settings), kubernetes.open_kubernetes(settings):
        assert len(operator.there) == 2
    assert not operator.there


def test_a_killed_driver_s_cluster_goes_by_itself_and_a_patient_one_s_does_not(
    settings: ClusterSettings,
) -> None:
    def timeout(patience: float) -> int:
        patient = settings.model_copy(update={"patience": patience})
        found: int = kubernetes.manifest(patient, "natmap")["spec"]["idleTimeout"]
        return found

    assert timeout(settings.patience) == 3600
    assert timeout(7200) > 7200


@pytest.mark.parametrize(
    "error",
    [
        ValueError("unable to find a configuration\nand more of it"),
        RuntimeError("Failed to create DaskCluster resource."),
        TimeoutError("Dask Cluster resource not actioned after 60 seconds"),
    ],
)
def test_what_kubernetes_refuses_is_said(
    operator: type[KubeCluster], settings: ClusterSettings, error: Exception
) -> None:
    operator.refuses = error
    with (
        pytest.raises(RunError, match="does not give a cluster") as caught,
        kubernetes.open_kubernetes(settings),
    ):
        pass
    assert caught.value.got == str(error).splitlines()[0]
    assert "operator" in str(caught.value.remedy)


def test_a_scheduler_that_cannot_start_is_not_waited_for_without_end(
    operator: type[KubeCluster], settings: ClusterSettings
) -> None:
    operator.starts = threading.Event()
    impatient = settings.model_copy(update={"patience": 0.2})
    with (
        pytest.raises(RunError, match="does not start the scheduler") as caught,
        kubernetes.open_kubernetes(impatient),
    ):
        pass
    assert "describe pod" in str(caught.value.remedy)
    assert not operator.made
    operator.starts.set()  # it finds its place after all, when nobody wants it
    assert operator.closed.wait(10)
    assert not operator.there


def test_an_error_of_the_run_stays_its_own(
    operator: type[KubeCluster], settings: ClusterSettings
) -> None:
    with pytest.raises(KeyError, match="mine"), kubernetes.open_kubernetes(settings):
        raise KeyError("mine")
    assert not operator.there
