"""What is told, is not told again at once: cool-down, what it holds back, and repetition until acknowledged. Pure.

Times are wall ns, since they must survive a restart. A clock that was set back ends a cool-down early, never late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tscc_stream.config_alerts import Told
from tscc_stream.sampling import seconds_to_ns

MOST_REPEATS = 12


@dataclass(slots=True)
class Cooldown:
    """Of one rule. alert: the last one told. held: how many since then; held_uid: the last of those; answered: how many
    of them when somebody acknowledged the alert.

    repeat_ns: when the last alert is due again; None: it is not.
    """

    told_ns: int | None = None
    alert: str = ""
    acknowledged: bool = False
    held: int = 0
    held_uid: str = ""
    repeat_ns: int | None = None
    repeats: int = 0
    answered: int = 0

    def active(self, told: Told, now_ns: int) -> bool:
        """Whether an alert of this rule is held back now."""
        return self.told_ns is not None and self.told_ns <= now_ns < self.told_ns + seconds_to_ns(told.cooldown_seconds)

    def hold(self, uid: str) -> None:
        """One more is held back."""
        self.held, self.held_uid = self.held + 1, uid

    def tell(self, told: Told, alert: str, now_ns: int) -> int:
        """An alert goes out: how many were held back before it. The cool-down begins."""
        held, self.held, self.held_uid, self.answered = self.held, 0, "", 0
        self.told_ns, self.alert, self.acknowledged, self.repeats = now_ns, alert, False, 0
        self.repeat_ns = _next(told, now_ns)
        return held

    def has_more(self, told: Told, now_ns: int) -> bool:
        """Whether the cool-down is over, and what it held back is to be told."""
        return self.held > self.answered and not self.active(told, now_ns)

    def ends_ns(self, told: Told) -> int | None:
        """When what it holds back is to be told; None: it holds nothing back."""
        if self.told_ns is None or self.held <= self.answered:
            return None
        return self.told_ns + seconds_to_ns(told.cooldown_seconds)

    def acknowledge(self, alert: str) -> bool:
        """Somebody has answered an alert; whether it was the last one, and for the first time.

        That ends what was held back before it. What comes after it is news that nobody has answered.
        """
        if alert != self.alert or not alert or self.acknowledged:
            return False
        self.acknowledged, self.repeat_ns, self.answered = True, None, self.held
        return True

    def over(self) -> None:
        """What was told is over: it is not repeated."""
        self.repeat_ns = None

    def repeat(self, told: Told, now_ns: int) -> int:
        """The number of the repetition that is due now; 0: none is."""
        if self.repeat_ns is None or told.repeat_seconds is None:
            return 0
        set_back = self.repeat_ns - now_ns > seconds_to_ns(told.repeat_seconds)
        if now_ns < self.repeat_ns and not set_back:
            return 0
        self.repeats += 1
        self.repeat_ns = _next(told, now_ns) if self.repeats < MOST_REPEATS else None
        return self.repeats

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Cooldown:
        return cls(**document)


def _next(told: Told, now_ns: int) -> int | None:
    return None if told.repeat_seconds is None else now_ns + seconds_to_ns(told.repeat_seconds)
