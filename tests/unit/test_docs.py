"""The documents that users read, held against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from worker.core.verdict import Exclusion, Reason
from worker.errors import DeadLetterCode, ExitCode
from worker.kafka import rights, topics
from worker.kafka.rights import Role
from worker.observe import records
from worker.observe.prometheus import PrometheusObserver
from worker.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
CONTRACT = (ROOT / "docs" / "contract.md").read_text("utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
OURS = re.compile(r"`(pilot_[a-z_]+?)(?:\{[^}]*\})?`")


def quoted(text: str) -> dict[str, None]:
    """What stands between backticks, in order."""
    return dict.fromkeys(re.findall(r"`([^`\n]+)`", text))


def test_the_readme_lists_exactly_the_settings() -> None:
    """A setting that is added or renamed without its line fails here."""
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`PILOT_.*?) \|", table, re.MULTILINE)
    named = {name for row in rows for name in quoted(row)}
    assert named == {ENV_PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("kind", [Exclusion, Reason, records.QueryOutcome, records.Part, records.PartOutcome])
def test_the_contract_explains_every_value(kind: object) -> None:
    """Reasons, exclusions and outcomes are all named."""
    assert set(get_args(kind)) <= quoted(CONTRACT).keys()


def test_the_contract_explains_the_dead_letter_codes_in_their_order() -> None:
    """The order says which code is taken where several apply."""
    table = CONTRACT.partition("### Dead letters")[2]
    assert re.findall(r"^\| `([a-z_]+)`", table, re.MULTILINE)[: len(DeadLetterCode)] == list(DeadLetterCode)


def test_the_contract_names_exit_codes_and_topics() -> None:
    """Supervisors and operators read them here."""
    codes = CONTRACT.partition("Exit codes:")[2].partition("\n\n")[0]
    assert {int(code) for code in re.findall(r"\d+", codes)} == {int(code) for code in ExitCode}
    public = [topic.name for topic in topics.declared(Settings()) if not topic.name.endswith("-changelog")]
    assert set(public) <= quoted(CONTRACT).keys()


def test_the_operations_page_lists_exactly_the_metrics() -> None:
    """Every metric that the worker has, with its labels and kind, and no name that it has not; the contract's first."""
    section = OPERATIONS.partition("## Metrics")[2].partition("\n## ")[0]
    listed = [
        (name, labels, kind)
        for name, labels, kind in re.findall(r"^\| `(pilot_\w+)(?:\{([^}]*)\})?` \| (\w+) \|", section, re.MULTILINE)
    ]
    metrics = PrometheusObserver()
    families = [(name, ",".join(tally.labels), tally.collect().type) for name, tally in metrics.all()]
    assert sorted(listed) == sorted(families)
    public = OURS.findall(CONTRACT)
    assert [name for name, _, _ in listed[: len(public)]] == public


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A file that is moved takes its links along."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("role", get_args(Role))
def test_the_security_page_lists_exactly_the_rights(role: Role) -> None:
    """Whoever grants by hand grants what `pilot topics acls` prints."""
    page = (ROOT / "docs" / "security.md").read_text("utf-8").partition("## Rights")[2].partition("\n## ")[0]
    everything = [topic.name for topic in topics.declared(Settings())]
    granted, current = set(), ""
    for first, resources, operations in re.findall(r"^\|([^|]*)\|([^|]*)\|([^|]*)\|$", page, re.MULTILINE):
        current = next(iter(quoted(first)), current)
        if current == role and "its own" not in resources:
            names = everything if "every topic" in resources else quoted(resources)
            granted |= {(name, operation.strip()) for name in names for operation in operations.split(",")}
    assert granted == {(right.name, right.operation) for right in rights.needed(Settings(), role)}
