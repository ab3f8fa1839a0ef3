"""`pilot evaluate` as a user runs it: exit codes, messages, files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.unit.evaluate.conftest import make_table
from worker.cli import run

RESULT_FIELDS = {
    "policy", "preset", "prior", "learn", "budget_share", "reserve", "users", "queries", "horizon", "splits", "seeds",
    "quality_share", "quality_share_std", "vs_static_mix", "vs_static_mix_se", "vs_label_lookup", "vs_label_lookup_se",
    "learning_quality_share", "budget_used_share", "rejected_share", "users_over_share", "max_overspend",
    "decisions_per_s",
}  # fmt: skip


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setenv("PILOT_DATA_DIR", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    table = make_table(120)
    columns: dict[str, object] = {"prompt": table.prompts, "kind": table.labels}
    for arm, model in enumerate(table.models):
        columns[f"reward:{model}"] = table.rewards[:, arm]
        columns[f"cost:{model}"] = table.costs[:, arm]
    columns["split"] = ["train"] * 80 + ["test"] * 40
    pd.DataFrame(columns).to_parquet(tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a refused command prints; it exits with 2."""
    assert run(["evaluate", *map(str, arguments)]) == 2
    return capsys.readouterr().err


class TestRefusals:
    """Bad input: exit 2, a line that names it, nothing written."""

    def test_a_missing_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The file is named."""
        assert "nowhere.parquet" in refused(capsys, "nowhere.parquet", "--splits", 2)

    def test_a_missing_reward_column(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The prefix is named."""
        assert "'score:'" in refused(capsys, path, "--reward-prefix", "score:")

    def test_a_nan_score(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """File, column and row are named, and no result file appears."""
        frame = pd.read_parquet(path)
        frame.loc[6, "reward:large"] = np.nan
        frame.to_parquet(path)
        line = refused(capsys, path, "--json", "out.json")
        assert "table.parquet: column 'reward:large', row 7" in line
        assert not Path("out.json").exists()

    def test_one_model_only(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """There is nothing to choose between."""
        assert "only one model" in refused(capsys, path, "--model", "large")

    def test_a_spread_between_no_users(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """One user in one window has nobody to differ from."""
        assert "--budget-spread: only with" in refused(capsys, path, "--budget-spread", 0.5)

    def test_neither_split_column_nor_splits(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Both ways out are named."""
        line = refused(capsys, path, "--split-column", "fold")
        assert "no column 'fold'" in line
        assert "--splits N" in line

    def test_a_best_model_that_costs_nothing(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """No budget is a share of nothing; the model is named, and no file appears."""
        frame = pd.read_parquet(path)
        frame["cost:large"] = 0.0
        frame.to_parquet(path)
        assert "best model, 'large', costs nothing" in refused(capsys, path, "--json", "out.json")
        assert not Path("out.json").exists()

    def test_train_rows_that_are_all_tested(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The reason is said, not that there are no such rows."""
        frame = pd.read_parquet(path)
        frame["prompt"] = "the same"
        frame.to_parquet(path)
        assert "every prompt of the train rows is in the test rows" in refused(capsys, path)

    def test_an_unknown_policy(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The policies that exist are listed."""
        assert "label-lookup" in refused(capsys, path, "--policy", "fastest")

    def test_worst_case_without_bounds(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The guarantee needs a column of bounds."""
        assert "'max-cost:small'" in refused(capsys, path, "--reserve", "worst_case")

    def test_learn_without_an_artefact(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """--learn N belongs to --prior FILE."""
        assert "--prior FILE" in refused(capsys, path, "--learn", 5)

    def test_a_prior_that_is_none(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A file that is no artefact is named, with what to do, and not in the words of a library."""
        Path("bad.npz").write_bytes(b"nothing")
        line = refused(capsys, path, "--prior", "bad.npz")
        assert "bad.npz: damaged, or no prior artefact; build it with `pilot pretrain`" in line

    def test_a_plot_that_nobody_can_draw(self, path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The suffixes that work are listed, before anything is computed."""
        assert ".svg" in refused(capsys, path, "--plot", "plot.docx")
        assert not data_dir.exists()

    @pytest.mark.parametrize("option", ["--json", "--plot"])
    def test_an_output_in_a_folder_that_is_not_there(
        self, option: str, path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The folder is named before anything is computed, not after an hour of replay."""
        assert "no folder missing" in refused(capsys, path, option, "missing/out.html")
        assert not data_dir.exists()

    @pytest.mark.parametrize(
        ("option", "value"), [("--budget", "nan"), ("--budget", "inf"), ("--budget-spread", "nan")]
    )
    def test_numbers_that_are_none(
        self, option: str, value: str, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """NaN and infinity pass a range, so they are refused by name."""
        assert f"{option}: not a finite number" in refused(capsys, path, option, value)

    def test_label_lookup_without_labels(self, path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The option to add is named before the prompts are encoded."""
        assert "--label-column" in refused(capsys, path, "--policy", "label-lookup")
        assert not data_dir.exists()

    def test_a_score_that_is_none_is_shown_as_in_the_file(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The value is a plain number, not how a library prints it."""
        frame = pd.read_parquet(path)
        frame.loc[6, "cost:large"] = -1.0
        frame.to_parquet(path)
        assert "row 7: -1.0 is not" in refused(capsys, path)


@pytest.mark.text
def test_writes_results_plot_and_cache(path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run gives a table on stdout, the JSON of the contract, a page, and embeddings for the next run."""
    policies = [part for name in ("pacing", "zcl", "label-lookup", "gateway", "oracle") for part in ("--policy", name)]
    files = ["--json", "out.json", "--plot", "out.html", "--label-column", "kind", "--seeds", "2"]
    assert run(["evaluate", str(path), *policies, "--budget", "0.3", "--prior", "bandit", *files]) == 0
    assert "pacing" in capsys.readouterr().out
    document = json.loads(Path("out.json").read_text())
    assert {k: document[k] for k in ("table", "best_model", "rows", "labels")} == {
        "table": "table.parquet", "best_model": "large", "rows": 120, "labels": 2,
    }  # fmt: skip
    assert [result["policy"] for result in document["results"]] == policies[1::2]
    for result in document["results"]:
        assert set(result) == RESULT_FIELDS
        assert (result["splits"], result["seeds"], result["queries"], result["prior"]) == (1, 2, 40, "bandit")
    by_policy = {result["policy"]: result for result in document["results"]}
    assert by_policy["label-lookup"]["vs_label_lookup"] == 0
    assert by_policy["oracle"]["decisions_per_s"] is None
    assert by_policy["pacing"]["learning_quality_share"] > 0
    assert "<svg" in Path("out.html").read_text() or "data:image/svg+xml" in Path("out.html").read_text()
    (cached,) = (data_dir / "embeddings").glob("*.npy")
    assert np.load(cached).shape == (120, 384)
    before = cached.stat().st_mtime_ns
    assert run(["evaluate", str(path), "--policy", "best", "--budget", "0.3", "--json", "out.json"]) == 0
    assert cached.stat().st_mtime_ns == before


@pytest.mark.text
def test_more_learning_rounds_than_train_rows_are_said(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rounds that there are take place, and a warning counts them."""
    assert run(["pretrain", "table", str(path), "--out", "prior.npz"]) == 0
    learning = ("--prior", "prior.npz", "--learn", "500", "--policy", "pacing", "--budget", "0.3", "--seeds", "1")
    assert run(["evaluate", str(path), *learning]) == 0
    assert "--learn 500: there are only 80 train rows" in capsys.readouterr().err
