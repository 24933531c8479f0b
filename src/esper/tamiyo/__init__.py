"""Strategy: reads how a run is doing at the end of an epoch, and says what to try on its network."""

from esper.tamiyo.asking import ask, check_policy
from esper.tamiyo.policy import Command, Cull, Policy, SystemState, TryOut, foreseen, policy_of, why_not
from esper.tamiyo.settings import StrategySettings

__all__ = [
    "Command",
    "Cull",
    "Policy",
    "StrategySettings",
    "SystemState",
    "TryOut",
    "ask",
    "check_policy",
    "foreseen",
    "policy_of",
    "why_not",
]
