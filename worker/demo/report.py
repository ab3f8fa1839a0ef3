"""The report: one HTML file that needs nothing else, no script and no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from worker.demo import plots
from worker.demo.plan import Plan
from worker.demo.results import Results
from worker.demo.summary import Section

STYLE = """
:root { color-scheme: light; font-family: system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; line-height: 1.45; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.lead { font-size: 1.25rem; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
.note { color: #555; font-size: .9rem; }
"""


def write(path: Path, results: Results, plan: Plan, sections: Sequence[Section], names: tuple[str, ...]) -> None:
    """Write the report; `names` are the models in the order of the columns."""
    figures = (
        ("Quality against cost", plots.quality_against_cost(results)),
        ("Spend against time, by user", plots.spend_over_time(results, plan)),
        ("Share of each model over time", plots.share_of_models(results, plan, names)),
        ("Reward while learning", plots.reward_while_learning(results)),
    )
    first, *others = sections
    parts = [_table(first), *(_figure(title, svg) for title, svg in figures), *(_table(each) for each in others)]
    path.write_text(_page(results.sentence, "\n".join(parts)), encoding="utf-8")


def _page(sentence: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>PILOT Router, demo</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>PILOT Router, demo</h1>\n"
        f'<p class="lead">{escape(sentence)}</p>\n{body}\n'
        '<p class="note">Prompts, rewards and charges: paretobandit 0.1.1 (Apache-2.0), test_holdout rows; the prior '
        "comes from its val rows. Rewards are a judge's opinion.</p>\n</body></html>\n"
    )


def _table(section: Section) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in section.header)
    rows = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    return f"<h2>{escape(section.title)}</h2>\n<table><tr>{head}</tr>\n{rows}</table>\n{note}"


def _figure(title: str, svg: str) -> str:
    return f"<h2>{escape(title)}</h2>\n<figure>{svg}</figure>"
