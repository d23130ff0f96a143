"""Cluster settings, the files of deploy/, and manifests against the operator's own definitions."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from services.required import need
from support.operator_schemas import require

from engine.clusters.manifests import manifest, worker_groups
from engine.clusters.settings import ClusterSettings, Group, load_cluster
from engine.clusters.workers import SETTINGS, count_slots, dask_settings, offers
from engine.errors import RecipeError

FILES = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


@pytest.mark.parametrize("kind", ["slurm", "kubernetes", "ssh"])
def test_the_files_of_deploy_are_settings(kind: str) -> None:
    found = load_cluster(str(DEPLOY / kind / "cluster.yaml"))
    assert found.kind == kind
    assert [group.name for group in found.groups] == ["readers", "predictors"]
    assert [group.gpus for group in found.groups] == [0, 1]


def test_an_address_with_certificates(tmp_path: Path) -> None:
    text = (DEPLOY / "address" / "cluster.yaml").read_text()
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"tls\.ca"):
        load_cluster(str(tmp_path / "cluster.yaml"))
    for name in ("ca.pem", "driver.pem", "driver.key"):
        (tmp_path / name).touch()
    found = load_cluster(str(tmp_path / "cluster.yaml"))
    assert found.address == "tls://scheduler.example.org:8786"
    assert found.tls.ca == str(tmp_path / "ca.pem")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slurms", "no such cluster"),
        ("kubernetes", "settings file"),
        ("ssh", "settings file"),
        ("tls://a:1", "certificates"),
        ("nowhere.yaml", "no such cluster"),
        ("tcp://a", "no such cluster"),
    ],
)
def test_a_wrong_word_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        load_cluster(text)
    assert "remedy" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "slurm"}, "groups"),
        ({"kind": "address"}, "address"),
        ({"kind": "ssh", "groups": [{"name": "a"}]}, "hosts"),
        ({"kind": "kubernetes", "groups": [{"name": "a"}]}, "image"),
        ({"kind": "slurm", "groups": [{"name": "a"}, {"name": "a"}]}, "one name"),
        ({"kind": "slurm", "groups": [{"name": "a", "gpu": 1}]}, "gpu"),
        ({"kind": "address", "address": "http://a:1"}, "tcp://"),
        ({"kind": "address", "address": "tcp://a:1", "tls": True}, "tls://host:port"),
        ({"kind": "address", "address": "tls://a:1", "tls": True}, "tls: {ca, cert, key}"),
        ({"kind": "address", "address": "tcp://a:1", "tls": FILES}, "tls://host:port"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError, match=said):
        load_cluster(str(tmp_path / "c.yaml"))


def test_words_and_addresses() -> None:
    assert load_cluster("local").kind == "local"
    assert load_cluster("slurm", 5).groups == (Group(name="workers", workers=5),)
    assert load_cluster("tcp://10.0.0.1:8786").address == "tcp://10.0.0.1:8786"


def test_folders_that_hosts_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_cluster("slurm").shared == tmp_path / "natmap-slurm"
    groups = (Group(name="a", hosts=("one",)),)
    ssh = ClusterSettings(kind="ssh", groups=groups)
    assert ssh.shared == tmp_path / "natmap-ssh"
    assert ssh.model_copy(update={"tls": False}).shared is None
    assert ssh.model_copy(update={"folder": "/there"}).shared == Path("/there")
    assert ssh.model_copy(update={"folder": "~/there"}).shared == tmp_path / "there"


def test_slots_by_kind() -> None:
    reader = {"nthreads": 1, "resources": {"CPU": 1.0}}
    plain = {"nthreads": 4, "resources": {}}
    gpu = {"nthreads": 2, "resources": {"GPU": 2.0}}
    assert count_slots([]) == {"cpu": 0, "gpu": 0, "mixed": 0}
    assert count_slots([plain, plain]) == {"cpu": 8, "gpu": 0, "mixed": 0}
    assert count_slots([reader, reader]) == {"cpu": 2, "gpu": 0, "mixed": 0}
    assert count_slots([gpu]) == {"cpu": 2, "gpu": 2, "mixed": 0}  # it must do all
    assert count_slots([gpu, reader, reader]) == {"cpu": 2, "gpu": 2, "mixed": 1}
    assert offers(0) == (1, {"CPU": 1.0})
    assert offers(1) == (2, {"GPU": 2.0})


def test_settings_reach_workers_by_the_environment() -> None:
    code = (
        "import dask, distributed, json; "
        f"print(json.dumps([dask.config.get(k) for k in {list(SETTINGS)!r}]))"
    )
    import json
    import os
    import sys

    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **dask_settings()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(found.stdout) == list(SETTINGS.values())


def test_manifests_are_what_the_operator_defines() -> None:
    settings = load_cluster(str(DEPLOY / "kubernetes" / "cluster.yaml"))
    cluster = manifest(settings, "natmap", ("engine.products.registry",))
    require(cluster, "daskcluster")
    (group,) = worker_groups(settings, "natmap")
    require(group, "daskworkergroup")
    worker = group["spec"]["worker"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "GPU=2" in worker["args"]
    assert worker["envFrom"] == [{"secretRef": {"name": "natmap-store"}}]
    broken = manifest(settings, "natmap")
    broken["spec"]["worker"]["spec"]["contaners"] = []
    with pytest.raises(jsonschema.ValidationError, match="contaners"):
        require(broken, "daskcluster")


def test_the_driver_s_manifests_name_one_another() -> None:
    here = DEPLOY / "kubernetes"
    documents = [
        doc
        for name in yaml.safe_load((here / "kustomization.yaml").read_text())["resources"]
        for doc in yaml.safe_load_all((here / name).read_text())
    ]
    kinds = {doc["kind"] for doc in documents}
    assert kinds == {"Namespace", "ServiceAccount", "Role", "RoleBinding", "Job"}
    assert {d["metadata"].get("namespace", "natmap") for d in documents} == {"natmap"}
    job = next(doc for doc in documents if doc["kind"] == "Job")["spec"]["template"]["spec"]
    account = next(doc for doc in documents if doc["kind"] == "ServiceAccount")
    assert job["serviceAccountName"] == account["metadata"]["name"]
    settings = load_cluster(str(here / "cluster.yaml"))
    assert job["containers"][0]["image"] == settings.image
    assert job["containers"][0]["envFrom"][0]["secretRef"]["name"] == settings.secret


def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    need("nginx")
    conf = tmp_path / "nginx.conf"
    include = DEPLOY / "nginx" / "natmap.conf"
    conf.write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}} http {{ include {include}; }}"
    )
    found = subprocess.run(["nginx", "-t", "-c", str(conf)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_the_driver_s_job_script_is_a_shell_s() -> None:
    script = DEPLOY / "slurm" / "natmap.sbatch"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_a_group_is_one_of_few_words() -> None:
    assert Group(name="a", memory="1500MB").gigabytes == 1.5


@pytest.mark.parametrize("kind", ["local", "slurm", "ssh", "kubernetes"])
def test_tls_is_the_default_and_can_be_left_out(kind: str) -> None:
    group = {"name": "a", "hosts": ["b"]}
    more = {} if kind == "local" else {"groups": [group], "image": "c"}
    found = ClusterSettings.model_validate({"kind": kind} | more)
    assert found.tls is True
    assert found.protocol == "tls://"
    plain = ClusterSettings.model_validate({"kind": kind, "tls": False} | more)
    assert plain.protocol == "tcp://"
