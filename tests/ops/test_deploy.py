"""The files of `deploy/` before the programs that read them in production."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
BIN = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path = DEPLOY, given: str | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_prometheus_takes_configuration_and_rules() -> None:
    """promtool finds nothing wrong with the scrape configuration and the rule files that it names."""
    assert "2 rule files found" in run("promtool", "check", "config", "prometheus.yml", cwd=DEPLOY / "prometheus")


def test_alerts_fire_when_they_should() -> None:
    """The rules' own tests pass in promtool, each alert once with series that must raise it."""
    run("promtool", "test", "rules", "alerts_test.yml", cwd=DEPLOY / "prometheus")


def test_dockerfile_has_no_findings() -> None:
    """hadolint has nothing to say."""
    assert run(BIN / "hadolint", "Dockerfile") == ""


@pytest.mark.parametrize("folder", ["base", "example", "with rocksdb"])
def test_manifests_follow_the_kubernetes_schemas(folder: str, tmp_path: Path) -> None:
    """What kustomize builds is valid; kinds of other vendors (KEDA, Prometheus Operator) have no schema here."""
    source = DEPLOY / "kubernetes" / folder if folder in ("base", "example") else _with_rocksdb(tmp_path)
    built = run("kubectl", "kustomize", source).split("\n---\n")
    native = [part for part in built if "keda.sh" not in part and "monitoring.coreos.com" not in part]
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text("\n---\n".join(native))
    passed = run(BIN / "kubernetes-validate", "--strict", manifest)
    assert passed.count("passed") == len(native) == 7
    assert len(built) - len(native) == (3 if folder == "example" else 0)


def test_rocksdb_gets_a_volume_for_each_worker(tmp_path: Path) -> None:
    """The store's folder outlives a pod: it is claimed, and the throwaway volume of that name is gone."""
    built = run("kubectl", "kustomize", _with_rocksdb(tmp_path)).split("\n---\n")
    (worker,) = [part for part in built if "kind: StatefulSet" in part]
    pod, claims = worker.split("volumeClaimTemplates:")
    assert "name: data" in claims
    assert "name: data" not in pod.split("volumes:")[1]
    assert any("PILOT_STORE: rocksdb" in part for part in built)


def _with_rocksdb(folder: Path) -> Path:
    base = os.path.relpath(DEPLOY / "kubernetes", folder)  # kustomize takes no absolute paths
    source = folder / "source"
    source.mkdir()
    (source / "kustomization.yaml").write_text(
        f"resources: [../{base}/base]\ncomponents: [../{base}/components/rocksdb]\n"
    )
    return source


def test_misspelt_manifest_is_noticed(tmp_path: Path) -> None:
    """The validation can fail: a field of another name is refused."""
    manifest = tmp_path / "manifest.yaml"
    text = run("kubectl", "kustomize", "kubernetes/base")
    manifest.write_text(text.replace("terminationGracePeriodSeconds", "terminationGraceSeconds"))
    done = subprocess.run([BIN / "kubernetes-validate", "--strict", manifest], capture_output=True, check=False)
    assert done.returncode != 0
