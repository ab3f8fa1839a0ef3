"""The results as tables of text, the same ones for the terminal and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from worker.demo.results import PERCENTILES, Results
from worker.demo.supervise import Worker
from worker.demo.tally import Tally

LEARNED_IS = "Rewards learned, costs settled and mean output tokens are those of `pilot models list`."
ERRORS_ARE = "± is the standard error of a paired bootstrap over the queries."


@dataclass(frozen=True, slots=True)
class Section:
    """A titled table; the first column is text, the others are numbers. `note` explains it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def sections(
    results: Results, tally: Tally, workers: Sequence[Worker], learned: Sequence[dict[str, Any]]
) -> list[Section]:
    """Everything there is to read of a run."""
    return [
        _comparisons(results),
        _budgets(results),
        _latencies(results),
        _learning(tally, learned),
        _dead_letters(tally),
        _facts(results, tally, workers),
    ]


def show(console: Console, section: Section) -> None:
    """Print a section as a table."""
    table = Table(title=section.title, title_justify="left", caption=section.note or None, caption_justify="left")
    for number, name in enumerate(section.header):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in section.rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def _comparisons(results: Results) -> Section:
    rows = tuple(
        (
            each.name,
            f"{each.quality:.4f}",
            f"{100 * each.quality_share:.1f} ± {100 * each.quality_error:.1f} %",
            f"{each.cost_usd:.4f}",
            f"{100 * each.cost_share:.1f} %",
            str(each.rejected),
        )
        for each in results.comparisons
    )
    header = ("way of choosing", "reward", "of best's quality", "USD", "of its cost", "rejected")
    note = (
        f"{ERRORS_ARE} Always the best, always the cheapest and random know no budget; the gateway falls back "
        "within each user's budget. The static mixes are the best of two models in hindsight, blind to the query: "
        "one spends what each user spent on that user's queries, the other pools all of it."
    )
    return Section("The same queries, chosen otherwise", header, rows, note)


def _budgets(results: Results) -> Section:
    rows = tuple(
        (
            each.user_id,
            f"{each.limit_usd:.6f}",
            f"{each.spent_usd:.6f}",
            f"{100 * each.spent_usd / each.limit_usd:.0f} %",
            str(each.queries),
            str(each.rejected),
        )
        for each in results.budgets
    )
    return Section("Budgets", ("user", "limit USD", "spent USD", "used", "queries", "rejected"), rows)


def _latencies(results: Results) -> Section:
    rows = tuple(
        (each.kind, str(each.queries), *(f"{value:.0f}" for value in each.at_percentiles)) for each in results.latencies
    )
    header = ("queries as", "count", *(f"p{percentile} ms" for percentile in PERCENTILES))
    return Section("Latency, broker timestamp of the query to the caller's receipt", header, rows)


def _learning(tally: Tally, learned: Sequence[dict[str, Any]]) -> Section:
    names = [answer.model for answer in tally.answers.values()]
    rows = tuple(
        (
            each["model"].rpartition("/")[2],
            str(names.count(each["model"])),
            str(each["observations"]),
            str(each["costs_settled"]),
            f"{each['reward_sum'] / each['observations']:.3f}" if each["observations"] else "–",
            f"{each['mean_output_tokens']:.0f}",
        )
        for each in learned
    )
    header = ("model", "decisions", "rewards", "costs", "mean reward", "output tokens")
    return Section("What the router learned", header, rows, LEARNED_IS)


def _dead_letters(tally: Tally) -> Section:
    codes = sorted(set(tally.expected_dead) | set(tally.dead))
    rows = tuple((code, str(tally.expected_dead[code]), str(tally.dead[code])) for code in codes)
    return Section("Dead letters", ("code", "sent on purpose", "set aside"), rows)


def _facts(results: Results, tally: Tally, workers: Sequence[Worker]) -> Section:
    repeats = f"{tally.sent['repeated queries']} / {tally.repeats_same} / {tally.repeats_different}"
    ready = ", ".join(f"{worker.ready_after_s:.1f} s" for worker in workers if worker.ready_after_s is not None)
    facts = {
        "queries asked": f"{tally.sent['queries']:,}",
        "decisions received": f"{len(tally.answers):,}",
        "decisions a second, overall / best second": f"{results.speed.overall:.1f} / {results.speed.best_second}",
        "workers, start to ready": ready,
        "workers restarted": str(sum(worker.restarts for worker in workers)),
        "queries asked twice / decisions again, same bytes / other bytes": repeats,
        "feedback before its query": str(tally.sent["early feedback"]),
        "feedback sent twice": str(tally.sent["repeated feedback"]),
        "records of feedback": f"{tally.sent['feedback']:,}",
    }
    return Section("The run", ("what", "value"), tuple(facts.items()))
