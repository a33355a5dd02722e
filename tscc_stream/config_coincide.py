"""Section `coincide`: whose detections `tscc-stream coincide` makes network events of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tscc_stream.config_alerts import AlertSource, in_words, source_mistakes
from tscc_stream.config_section import BusKeysConfig, NotNegative, Positive, Section


class CoincideConfig(Section):
    """start: where a first start begins in each source's journal. early_seconds, settle_seconds: how long after the
    detections of a time came in an early notice goes out, and the last word.
    """

    sources: Annotated[tuple[AlertSource, ...], Field(strict=False, max_length=200)] = ()
    bus_keys: BusKeysConfig | None = None
    start: Literal["oldest", "now"] = "oldest"
    early_seconds: NotNegative = 2.0
    settle_seconds: Positive = 20.0

    @model_validator(mode="after")
    def _consistent(self) -> CoincideConfig:
        wrong = in_words(source_mistakes(self.sources, self.bus_keys))
        if self.early_seconds > self.settle_seconds:
            wrong.append(
                f"early_seconds {self.early_seconds:g}: expected at most settle_seconds {self.settle_seconds:g}"
            )
        if wrong:
            raise ValueError("; ".join(wrong))
        return self
