"""The container file and the Kubernetes objects, against the keys, ports and routes of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import shoal
from shoal.address import split_address
from shoal.cluster.identity import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from shoal.config import Config, load, unknown_variables
from shoal.http.ops import ROUTES
from shoal.tokens import TOKENS_FILE

DEPLOY = Path(__file__).parents[2] / "host_tools/deploy"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
CONTAINERFILE = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
(STATEFULSET,) = (found for found in OBJECTS if found["kind"] == "StatefulSet")
POD: dict[str, Any] = STATEFULSET["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
IDS = [10001, 10001, 10001]


def service(name: str) -> dict[str, Any]:
    (spec,) = (o["spec"] for o in OBJECTS if o["kind"] == "Service" and o["metadata"]["name"] == name)
    return spec


def environ(pod: str = "shoal-0") -> dict[str, str]:
    """As the kubelet makes it: a value may name variables that stand before it."""
    fields = {"metadata.name": pod, "status.podIP": "10.1.2.3"}
    made: dict[str, str] = {}
    for variable in CONTAINER["env"]:
        if "valueFrom" in variable:
            made[variable["name"]] = fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            made[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda hit: made[hit[1]], variable["value"])
    return made


def image_environ() -> dict[str, str]:
    last = CONTAINERFILE.rpartition("\nFROM ")[2]
    return dict(
        pair.split("=", 1) for line in re.findall(r"^ENV (.*)$", last, re.MULTILINE) for pair in line.split()
    )


def configured() -> Config:
    return load({}, image_environ() | environ(), None)


def mounts() -> dict[str, dict[str, Any]]:
    return {mount["name"]: mount for mount in CONTAINER["volumeMounts"]}


def open_paths() -> set[str]:
    return {route.path for route in ROUTES if route.role is None}


def test_every_variable_is_one_that_shoald_knows() -> None:
    assert unknown_variables(image_environ() | environ()) == []
    assert POD["enableServiceLinks"] is False


def test_the_pods_begin_one_cluster_and_find_each_other_before_they_are_ready() -> None:
    config, spec = configured(), STATEFULSET["spec"]
    assert (config.mode, config.bootstrap_expect) == ("cluster", spec["replicas"])
    assert (config.discovery.methods, config.discovery.k8s_service) == (("k8s",), spec["serviceName"])
    headless = service(spec["serviceName"])
    assert (headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("None", True)
    assert spec["podManagementPolicy"] == "Parallel"


def test_ports_are_those_that_shoald_listens_on() -> None:
    config = configured()
    assert config.peer_listen is not None
    listens = {"http": split_address(config.listen)[1], "peers": split_address(config.peer_listen)[1]}
    assert {port["name"]: port["containerPort"] for port in CONTAINER["ports"]} == listens
    for name, port in (("shoal", "http"), (STATEFULSET["spec"]["serviceName"], "peers")):
        assert service(name)["ports"] == [{"name": port, "port": listens[port], "targetPort": port}]
    exposed = re.findall(r"^EXPOSE (.*)$", CONTAINERFILE, re.MULTILINE)
    assert exposed == [" ".join(map(str, listens.values()))]
    assert image_environ()["SHOAL_LISTEN"] == f"0.0.0.0:{listens['http']}"


def test_a_pod_tells_clients_an_address_that_they_can_reach() -> None:
    assert split_address(configured().listen)[0] == environ()["POD_IP"]


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_what_needs_no_token(probe: str) -> None:
    asked = CONTAINER[probe]["httpGet"]
    assert asked["path"] in open_paths()
    assert asked["path"] == ("/readyz" if probe == "readinessProbe" else "/livez")
    assert asked["port"] == "http"


def test_the_image_is_asked_whether_it_is_ready() -> None:
    (command,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    (path,) = re.findall(r"127\.0\.0\.1:4589(/\w+)", json.loads(command)[2])
    assert path == "/readyz"
    assert path in open_paths()
    compile(json.loads(command)[2], "HEALTHCHECK", "exec")


def test_only_the_data_directory_is_written_to_and_not_by_root() -> None:
    config = configured()
    assert mounts()["data"]["mountPath"] == str(config.data_dir) == image_environ()["SHOAL_DATA_DIR"]
    assert re.findall(r"^VOLUME (.*)$", CONTAINERFILE, re.MULTILINE) == [str(config.data_dir)]
    (claim,) = STATEFULSET["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    pod, own = POD["securityContext"], CONTAINER["securityContext"]
    assert [pod[name] for name in ("runAsUser", "runAsGroup", "fsGroup")] == IDS
    assert re.findall(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.MULTILINE) == [("10001", "10001")]
    assert pod["runAsNonRoot"]
    assert own["readOnlyRootFilesystem"]
    assert not own["allowPrivilegeEscalation"]
    assert own["capabilities"] == {"drop": ["ALL"]}


def test_each_pod_has_its_own_identity_where_shoald_looks_for_it() -> None:
    mount = mounts()["tls"]
    assert (mount["mountPath"], mount["subPathExpr"]) == (str(configured().tls_dir), "$(POD_NAME)")
    secrets = {volume["name"]: volume["secret"] for volume in POD["volumes"]}
    pods = [f"{STATEFULSET['metadata']['name']}-{at}" for at in range(STATEFULSET["spec"]["replicas"])]
    wanted = {f"{pod}/{file}" for pod in pods for file in (CA_FILE, CERTIFICATE_FILE, KEY_FILE)}
    assert {item["path"] for item in secrets["tls"]["items"]} == wanted
    assert secrets["tls"]["defaultMode"] == secrets["tokens"]["defaultMode"] == 0o440
    assert [configured().node_id, load({}, environ("shoal-2"), None).node_id] == [pods[0], pods[2]]


def test_all_pods_know_the_same_tokens() -> None:
    mount = mounts()["tokens"]
    assert mount["mountPath"] == str(configured().data_dir / TOKENS_FILE)
    assert mount["subPath"] == TOKENS_FILE


def test_a_majority_always_stays() -> None:
    (budget,) = (found["spec"] for found in OBJECTS if found["kind"] == "PodDisruptionBudget")
    assert budget["maxUnavailable"] == 1
    (term,) = POD["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    labels = STATEFULSET["spec"]["template"]["metadata"]["labels"]
    chosen = [budget["selector"], term["labelSelector"], STATEFULSET["spec"]["selector"]]
    chosen += [{"matchLabels": service(name)["selector"]} for name in ("shoal", "shoal-peers")]
    assert chosen == [{"matchLabels": labels}] * len(chosen)


def test_the_image_is_of_this_release_and_of_a_python_that_it_takes() -> None:
    assert CONTAINER["image"] == f"shoal:{shoal.__version__}"
    assert set(re.findall(r"^FROM (\S+)", CONTAINERFILE, re.MULTILINE)) == {"python:${PYTHON}-slim-bookworm"}
    assert "ENV PIP_CONSTRAINT=/source/constraints.txt" in CONTAINERFILE
