"""Names of the methods that are scored: the network, its upper bound, and baselines."""

from __future__ import annotations

MODEL = "mask"
"""The network's masks at the threshold of its settings."""
BOX = "tracker box filled"
BOUND = "mask in true boxes"
STILL_BOX = "first box held still"
STILL = "first mask held still"
TRUE_BOX = "true box filled"
THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
"""Mask thresholds whose scores are shown beside those at the network's own threshold."""


def at_threshold(threshold: float) -> str:
    """Return the name of the network's masks at another threshold than its own."""
    return f"{MODEL}@{threshold:.2f}"


def threshold_of(method: str) -> float | None:
    """Return the threshold that `at_threshold` put into a name, or None."""
    stem, _, threshold = method.partition("@")
    return float(threshold) if stem == MODEL and threshold else None


def box_methods(name: str) -> tuple[str, str]:
    """Return the names of both methods of a source of boxes: the box filled, GrabCut within it."""
    return f"{name} box filled", f"{name} box + GrabCut"
