"""Arms: the models that can be chosen, as the control topic describes them."""

from __future__ import annotations

from dataclasses import dataclass

USD_PER_MTOK = 1e-6  # a price per million tokens, applied to one token


@dataclass(frozen=True, slots=True)
class Arm:
    """One model with its price list and limits; prices in USD, limits in tokens."""

    model: str
    input_usd_per_mtok: float = 0.0
    output_usd_per_mtok: float = 0.0
    request_usd: float = 0.0
    enabled: bool = True
    expected_output_tokens: int = 256
    max_output_tokens: int | None = None
    max_input_tokens: int | None = None
    tags: frozenset[str] = frozenset()

    def price_usd(self, input_tokens: float, output_tokens: float) -> float:
        """What a call with these tokens costs at list price, in USD."""
        per_token = self.input_usd_per_mtok * input_tokens + self.output_usd_per_mtok * output_tokens
        return self.request_usd + per_token * USD_PER_MTOK
