"""From settings to the router's options and prior."""

from pathlib import Path

import pytest

from worker import routing
from worker.core.prior import default_prior
from worker.errors import UsageError
from worker.settings import load


def test_defaults_are_the_contracts() -> None:
    """Without any setting: pacing, quantile .95, reject, no exploration beyond the bonus."""
    options = routing.options(load(environ={})[0])
    assert (options.policy, options.reserve, options.reserve_quantile) == ("pacing", "quantile", 0.95)
    assert (options.fallback, options.exploration_rate, options.alpha) == ("reject", 0.0, None)
    assert (options.rewards, options.learning_share) == ("coupled", None)


def test_every_setting_arrives() -> None:
    """What the environment says is what the router gets."""
    environ = {
        "PILOT_POLICY": "floor", "PILOT_QUALITY_FLOOR": "0.9", "PILOT_ALPHA": "0.7", "PILOT_EXPLORATION_RATE": "0.1",
        "PILOT_RESERVE": "worst_case", "PILOT_RESERVE_QUANTILE": "0.8", "PILOT_FALLBACK": "cheapest",
        "PILOT_DECISION_DETAIL": "chosen", "PILOT_REWARD_MODEL": "disjoint",
    }  # fmt: skip
    options = routing.options(load(environ=environ)[0])
    assert (options.policy, options.quality_floor, options.alpha) == ("floor", 0.9, 0.7)
    assert (options.exploration_rate, options.reserve, options.reserve_quantile) == (0.1, "worst_case", 0.8)
    assert (options.fallback, options.detail, options.rewards) == ("cheapest", "chosen", "disjoint")


def test_preset_paper_brings_its_parts() -> None:
    """The published policy, beliefs, buckets and plain reservations; explicit settings win."""
    options = routing.options(load(environ={"PILOT_PRESET": "paper"})[0])
    assert (options.policy, options.rewards, options.learning_share) == ("zcl", "paper", 0.1)
    assert options.reserve == "expected"
    explicit = {"PILOT_PRESET": "paper", "PILOT_RESERVE": "worst_case", "PILOT_LEARNING_SHARE": "0.3"}
    options = routing.options(load(environ=explicit)[0])
    assert (options.reserve, options.learning_share) == ("worst_case", 0.3)


def test_the_shipped_prior_is_the_default() -> None:
    """Without a file the shipped one; under preset paper without its intercept."""
    assert routing.prior(load(environ={})[0]) is default_prior()
    published = routing.prior(load(environ={"PILOT_PRESET": "paper"})[0])
    assert not published.projection.constant


def test_a_file_that_is_no_prior_is_refused(tmp_path: Path) -> None:
    """The line names the file and says what to do."""
    file = tmp_path / "prior.npz"
    file.write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"prior\.npz.*pilot pretrain"):
        routing.load_prior(file)
    with pytest.raises(UsageError, match=r"missing\.npz"):
        routing.load_prior(tmp_path / "missing.npz")
