"""E3SN: an end-to-end Siamese network for video object segmentation, re-implemented as a reproducible study."""

from importlib import import_module
from typing import Any

_PLACES = {
    "Tracker": "tracking",
    "boundary_accuracy": "metrics",
    "build_model": "model.network",
    "evaluate_sequence": "scoring",
    "load_export": "backends",
    "load_model": "model.weights",
    "load_profile": "loading",
    "region_similarity": "metrics",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: tracking on exported graphs then never waits for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
