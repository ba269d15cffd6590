"""E3SN: an end-to-end Siamese network for video object segmentation, re-implemented as a
reproducible study.

A name is imported when it is first asked for, so that importing the package takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from e3sn_lib.metrics.measures import boundary_accuracy as boundary_accuracy
    from e3sn_lib.metrics.measures import region_similarity as region_similarity
    from e3sn_lib.metrics.scoring import evaluate_sequence as evaluate_sequence
    from e3sn_lib.model.network import build_model as build_model
    from e3sn_lib.model.weights import load_model as load_model
    from e3sn_lib.profiles.loading import load_profile as load_profile
    from e3sn_lib.tracking.backends import load_export as load_export
    from e3sn_lib.tracking.own_video import track_video as track_video
    from e3sn_lib.tracking.tracker import Tracker as Tracker
    from e3sn_lib.tracking.video import overlay as overlay
    from e3sn_lib.tracking.video import read_frames as read_frames

__version__ = "0.1.0"

_MODULES = {
    "Tracker": "tracking.tracker",
    "boundary_accuracy": "metrics.measures",
    "build_model": "model.network",
    "evaluate_sequence": "metrics.scoring",
    "load_export": "tracking.backends",
    "load_model": "model.weights",
    "load_profile": "profiles.loading",
    "overlay": "tracking.video",
    "read_frames": "tracking.video",
    "region_similarity": "metrics.measures",
    "track_video": "tracking.own_video",
}
__all__ = list(_MODULES)

if not TYPE_CHECKING:  # a type checker would take every name for a known one

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
