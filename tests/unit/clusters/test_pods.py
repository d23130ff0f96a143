"""What opening a cluster on Kubernetes creates, and what its pods run."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from services.kubernetes import Kubernetes
from services.processes import free_port
from support.operator_schemas import require
from support.stranger import knock

import engine.clusters.kubernetes as kubernetes
from engine.clusters.manifests import manifest
from engine.clusters.settings import ClusterSettings, load_cluster
from engine.clusters.tls import security_of
from engine.errors import RunError

SETTINGS = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "cluster.yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """One for all tests: kr8s remembers where it is."""
    pytest.importorskip("kr8s")
    found = Kubernetes(tmp_path_factory.mktemp("kubernetes"))
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def operator(server: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> Kubernetes:
    """An API server, and this process as a pod of it; there is no scheduler to connect to."""
    server.forget()
    monkeypatch.setenv("KUBECONFIG", str(server.config))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(kubernetes, "_LOOK", 0.05)
    monkeypatch.setattr(kubernetes, "Client", _Told)
    return server


class _Told(nullcontext[Any]):
    """Stands for a client; keeps what it was told."""

    address: str = ""
    security: Any = None

    def __init__(self, address: str, security: Any, timeout: float) -> None:
        super().__init__(self)
        _Told.address, _Told.security = address, security


@pytest.fixture
def settings() -> ClusterSettings:
    return load_cluster(str(SETTINGS))


def test_what_is_created_is_what_the_operator_defines(
    operator: Kubernetes, settings: ClusterSettings
) -> None:
    with kubernetes.open_kubernetes(settings, preload=("engine.products.registry",)) as pods:
        assert pods.gpus
        assert operator.kinds() == ["DaskCluster", "DaskWorkerGroup", "Secret"]
    assert not operator.there
    cluster, secret, group = operator.made
    require(cluster, "daskcluster")
    require(group, "daskworkergroup")
    name = cluster["metadata"]["name"]
    assert group["metadata"]["name"] == f"{name}-predictors"
    assert group["spec"]["worker"]["replicas"] == settings.groups[1].workers
    assert "GPU=2" in group["spec"]["worker"]["spec"]["containers"][0]["args"]
    assert {owner["name"] for owner in secret["metadata"]["ownerReferences"]} == {name}


def test_pods_speak_tls_unless_the_settings_say_no(
    operator: Kubernetes, settings: ClusterSettings
) -> None:
    with kubernetes.open_kubernetes(settings):
        address = _Told.address
        key = Path(_Told.security.tls_client_key)
        assert key.stat().st_mode & 0o077 == 0
        text = key.read_bytes()
    assert re.fullmatch(r"tls://natmap-[0-9a-f]{6}-scheduler\.natmap\.svc:8786", address)
    assert not key.exists()
    cluster, secret, group = operator.made
    assert base64.b64decode(secret["data"]["key.pem"]) == text
    bodies = str([cluster, group])
    assert text.decode().splitlines()[1] not in bodies
    pods = [
        cluster["spec"]["scheduler"]["spec"],
        cluster["spec"]["worker"]["spec"],
        group["spec"]["worker"]["spec"],
    ]
    for pod in pods:
        args = pod["containers"][0]["args"]
        assert args[args.index("--protocol") + 1] == "tls"
        (volume,) = (volume for volume in pod["volumes"] if "secret" in volume)
        assert volume["secret"]["secretName"] == secret["metadata"]["name"]
        for option in ("--tls-ca-file", "--tls-cert", "--tls-key"):
            folder, _, file = args[args.index(option) + 1].rpartition("/")
            assert file in secret["data"]
            assert {"name": volume["name"], "mountPath": folder, "readOnly": True} in pod[
                "containers"
            ][0]["volumeMounts"]
    for pod in pods[1:]:
        assert address in pod["containers"][0]["args"]
    operator.made.clear()
    with kubernetes.open_kubernetes(settings.model_copy(update={"tls": False})):
        assert _Told.address.startswith("tcp://")
    assert "tls" not in str(operator.made)


def test_two_runs_in_a_namespace_have_a_cluster_each(
    operator: Kubernetes, settings: ClusterSettings
) -> None:
    with kubernetes.open_kubernetes(settings), kubernetes.open_kubernetes(settings):
        assert operator.kinds().count("DaskCluster") == 2
    assert not operator.there


def test_a_killed_driver_s_cluster_goes_by_itself_and_a_patient_one_s_does_not(
    settings: ClusterSettings,
) -> None:
    def timeout(patience: float) -> int:
        patient = settings.model_copy(update={"patience": patience})
        found: int = manifest(patient, "natmap")["spec"]["idleTimeout"]
        return found

    assert timeout(settings.patience) == 3600
    assert timeout(7200) > 7200


@pytest.mark.parametrize("kind", ["DaskCluster", "Secret", "DaskWorkerGroup"])
def test_what_kubernetes_refuses_is_said_and_nothing_is_left(
    operator: Kubernetes, settings: ClusterSettings, kind: str
) -> None:
    operator.refuses[kind] = 403
    with (
        pytest.raises(RunError, match="does not give a cluster") as caught,
        kubernetes.open_kubernetes(settings),
    ):
        pass
    assert f"{kind} is forbidden" in str(caught.value.got)
    assert "operator" in str(caught.value.remedy)
    assert not operator.there


WAITING = {"reason": "ImagePullBackOff", "message": "no such image"}
NO_ROOM = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available",
}


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        (None, "the operator has made none"),
        ({"containerStatuses": [{"state": {"waiting": WAITING}}]}, "no such image"),
        ({"phase": "Pending", "conditions": [NO_ROOM]}, "0/3 nodes are available"),
        ({"phase": "Pending"}, "Pending"),
    ],
)
def test_a_scheduler_that_cannot_start_is_not_waited_for_without_end(
    operator: Kubernetes, settings: ClusterSettings, pod: dict[str, Any] | None, said: str
) -> None:
    operator.pod = pod
    impatient = settings.model_copy(update={"patience": 0.2})
    with (
        pytest.raises(RunError, match="does not start the scheduler") as caught,
        kubernetes.open_kubernetes(impatient),
    ):
        pass
    assert said in str(caught.value.got)
    assert len(operator.made) == 3
    assert not operator.there


def test_an_error_of_the_run_stays_its_own(operator: Kubernetes, settings: ClusterSettings) -> None:
    with pytest.raises(KeyError, match="mine"), kubernetes.open_kubernetes(settings):
        raise KeyError("mine")
    assert not operator.there


@pytest.mark.slow
def test_a_pod_s_scheduler_refuses_strangers_and_tells_the_operator_that_it_idles(
    settings: ClusterSettings, tmp_path: Path
) -> None:
    """The very words of the manifest, but for the paths of the files and the ports."""
    security = security_of(True, tmp_path)
    assert security is not None
    (pod,) = manifest(settings, "a")["spec"]["scheduler"]["spec"]["containers"]
    files = (security.tls_ca_file, security.tls_worker_cert, security.tls_worker_key)
    words = pod["args"][1:]
    for option, path in zip(("--tls-ca-file", "--tls-cert", "--tls-key"), files, strict=True):
        words[words.index(option) + 1] = path
    port, pages = free_port(), free_port()
    words += ["--port", str(port), "--dashboard-address", f"127.0.0.1:{pages}"]
    words[words.index("0.0.0.0")] = "127.0.0.1"
    environment = os.environ | {pair["name"]: pair["value"] for pair in pod["env"]}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *words]
    with subprocess.Popen(command, env=environment, cwd=tmp_path) as process:
        try:
            address = f"tls://127.0.0.1:{port}"
            with Client(address, security=security, timeout=120) as client:
                assert client.scheduler_info()["address"] == address
                found = knock([address])[address]
                assert all(answer.startswith("refused") for answer in found.values()), found
                start = f"http://127.0.0.1:{pages}"
                with urllib.request.urlopen(f"{start}/health") as answer:
                    assert answer.status == 200
                until = time.monotonic() + 60
                while time.monotonic() < until:
                    with urllib.request.urlopen(f"{start}/api/v1/check_idle") as answer:
                        if answer.read() != b'{"idle_since": null}':
                            break
                else:
                    pytest.fail("it never idles")
                shut = [f"GET {start}{path}" for path in ("/status", "/info/main/workers.html")]
                shut += [f"GET {start}/api/v1/{name}" for name in ("get_workers", "retire_workers")]
                for page, said in knock(pages=shut).items():
                    assert said["page"].startswith("404"), (page, said)
        finally:
            process.terminate()
