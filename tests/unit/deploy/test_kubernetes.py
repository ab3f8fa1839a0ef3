"""The manifests, held against the worker's settings and its HTTP port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.settings import ENV_PREFIX, Settings

KUBERNETES = Path(__file__).parents[3] / "deploy" / "kubernetes"


def documents() -> Iterator[dict[str, Any]]:
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text("utf-8"))


def pods() -> list[dict[str, Any]]:
    return [found["spec"]["template"]["spec"] for found in documents() if found["kind"] in ("StatefulSet", "Job")]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents() if document["kind"] == kind)
    return found


def test_settings_exist() -> None:
    """Every PILOT_ name is a setting: an unknown one would stop the worker."""
    literals = [
        literal.partition("=")[0]
        for document in documents()
        for generated in document.get("configMapGenerator", ())
        for literal in generated["literals"]
    ]
    named = literals + [entry["name"] for pod in pods() for c in pod["containers"] for entry in c.get("env", ())]
    assert "PILOT_WORKER_ID" in named
    assert set(named) <= {ENV_PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("pod", pods(), ids=lambda pod: str(pod["containers"][0]["name"]))
def test_pods_are_confined(pod: dict[str, Any]) -> None:
    """No root, nothing writable but the mounts, no capability, no token, no variables of services called pilot-…."""
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"]["drop"] == ["ALL"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/var/lib/pilot", "/tmp"}


def test_a_worker_keeps_its_id() -> None:
    """The pod's name, which a StatefulSet keeps, is the member's id in the group."""
    (container,) = of_kind("StatefulSet")["spec"]["template"]["spec"]["containers"]
    (variable,) = (entry for entry in container["env"] if entry["name"] == "PILOT_WORKER_ID")
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"


def test_scaling_is_on_the_workers_lag() -> None:
    """KEDA looks at the topic and group of the default settings, and never wants more workers than partitions."""
    spec = of_kind("ScaledObject")["spec"]
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["topic"] == Settings().topic("queries")
    assert trigger["metadata"]["consumerGroup"] == Settings().application_id
    (job,) = of_kind("Job")["spec"]["template"]["spec"]["containers"]
    assert spec["maxReplicaCount"] == int(job["args"][job["args"].index("--partitions") + 1])
