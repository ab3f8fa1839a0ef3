"""From settings to what the core needs: the router's options and the prior artefact."""

from __future__ import annotations

from pathlib import Path

from worker.core.paper import as_published
from worker.core.prior import Prior, PriorError, default_prior
from worker.core.router import RouterOptions
from worker.errors import UsageError
from worker.settings import Settings


def options(settings: Settings) -> RouterOptions:
    """The settings that decisions depend on."""
    published = settings.preset == "paper"
    return RouterOptions(
        policy=settings.policy,
        alpha=settings.alpha,
        exploration_rate=settings.exploration_rate,
        reserve=settings.reserve,
        reserve_quantile=settings.reserve_quantile,
        fallback=settings.fallback,
        quality_floor=settings.quality_floor,
        detail=settings.decision_detail,
        rewards="paper" if published else settings.reward_model,
        learning_share=settings.learning_share if published else None,
    )


def prior(settings: Settings) -> Prior:
    """The artefact that the settings name, or the shipped default; under preset `paper` only what that has.

    Raises:
        UsageError: the file is missing, damaged or of another version.
    """
    try:
        artefact = load_prior(settings.prior)
    except UsageError as error:
        raise UsageError(f"PILOT_PRIOR: {error}") from None
    return as_published(artefact) if settings.preset == "paper" else artefact


def require_encoder(settings: Settings, artefact: Prior, identity: str) -> None:
    """Check that this encoder is the one that the artefact was fitted with.

    Raises:
        UsageError: it is not; the line names both settings.
    """
    if artefact.encoder != identity or artefact.projection.embedding_dimension != settings.embedding_dim:
        raise UsageError(
            f"PILOT_ENCODER={settings.encoder} with PILOT_EMBEDDING_DIM={settings.embedding_dim} is not the encoder of "
            f"the prior ({artefact.encoder}, {artefact.projection.embedding_dimension}): set them alike, or build a "
            "prior with `pilot pretrain texts`"
        )


def load_prior(path: Path | None) -> Prior:
    """The artefact of this file, or the shipped default.

    Raises:
        UsageError: the file is missing, damaged or of another version.
    """
    try:
        return default_prior() if path is None else Prior.load(path)
    except PriorError as error:
        raise UsageError(str(error)) from None
