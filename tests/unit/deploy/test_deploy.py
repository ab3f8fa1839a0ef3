"""The files that deploy or build: they are valid, and agree with the code and with each other."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from worker.kafka import distribution
from worker.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@pytest.fixture
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_compose_file_follows_the_specification() -> None:
    """docker-compose.yml is what the Compose specification allows, and a misspelt key would not be."""
    text = COMPOSE.read_text()
    parse = compose_spec.PyOptions(apply_merge=True).from_yaml
    project = parse(text)
    project.validate()
    assert {"kafka", "topics", "worker-1", "worker-2", "prometheus", "grafana"} <= set(project.service_names())
    with pytest.raises(ValueError, match="healthchek"):
        parse(text.replace("healthcheck:", "healthchek:"))


def test_compose_settings_exist(services: dict[str, dict[str, Any]]) -> None:
    """Every PILOT_ variable of compose file and Dockerfile is a setting: an unknown one would stop the worker."""
    given = {name for service in services.values() for name in service.get("environment", ())}
    given |= set(re.findall(r"\b(PILOT_[A-Z_]+)=", DOCKERFILE.read_text()))
    settings = {name for name in given if name.startswith(ENV_PREFIX)}
    assert settings <= {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    assert "PILOT_BOOTSTRAP_SERVERS" in settings


def test_compose_workers_have_their_own_identity(services: dict[str, dict[str, Any]]) -> None:
    """Two workers share no id, no volume and no port, and start after the topics."""
    workers = [service for name, service in services.items() if name.startswith("worker")]
    assert len({worker["environment"]["PILOT_WORKER_ID"] for worker in workers}) == len(workers) == 2
    assert len({worker["volumes"][0] for worker in workers}) == 2
    assert len({worker["ports"][0] for worker in workers}) == 2
    assert {worker["depends_on"]["topics"]["condition"] for worker in workers} == {"service_completed_successfully"}


def test_named_volumes_are_declared(services: dict[str, dict[str, Any]]) -> None:
    """Each named volume that a service mounts is declared, and none is declared in vain."""
    mounted = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    folders = {source for source in mounted if source.startswith("./")}
    assert mounted - folders == set(yaml.safe_load(COMPOSE.read_text())["volumes"])
    assert {folder for folder in folders if not (ROOT / folder).is_dir()} == set()


def test_prometheus_scrapes_the_workers(services: dict[str, dict[str, Any]]) -> None:
    """Each worker of the compose file is a target, on the port that the image serves."""
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    targets = {target for job in config["scrape_configs"] for target in job["static_configs"][0]["targets"]}
    assert targets == {f"{name}:8080" for name in services if name.startswith("worker")}


def test_one_kafka_version_everywhere(services: dict[str, dict[str, Any]]) -> None:
    """The container and the local broker are the same Kafka."""
    pom = distribution.POM.read_text()
    version = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([\d.]+)</version>", pom)
    assert version is not None
    assert services["kafka"]["image"] == f"apache/kafka:{version[1]}"
    assert (ROOT / "deploy" / "kafka" / "pom.xml").read_text() == pom


def test_dockerfile_copies_what_exists() -> None:
    """Every path that the Dockerfile copies is in the repository and not ignored by .dockerignore."""
    copied = {
        path.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
        for path in line.split()[:-1]
    }
    assert {path for path in copied if not (ROOT / path).exists()} == set()
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert copied <= kept


def test_make_alone_lists_its_targets() -> None:
    """`make` without a target names every target with what it does, and runs nothing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    listed = [line.split()[1] for line in done.stdout.splitlines()]
    assert listed == ["help", "setup", "demo", "test", "test-ops", "check", "chaos", "bench", "clean"]


def test_constraints_pin_every_dependency() -> None:
    """constraints.txt pins by version alone, whatever was installed from where."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    assert any(line.startswith("faust-streaming==0.15.3") for line in lines)
