"""E3SN: an end-to-end Siamese network for video object segmentation, re-implemented as a reproducible study."""

from e3sn_lib.metrics.measures import boundary_accuracy, region_similarity
from e3sn_lib.metrics.scoring import evaluate_sequence
from e3sn_lib.model.network import build_model
from e3sn_lib.model.weights import load_model
from e3sn_lib.profiles.loading import load_profile
from e3sn_lib.tracking.tracker import Tracker

__all__ = ["Tracker", "boundary_accuracy", "build_model", "evaluate_sequence", "load_model", "load_profile", "region_similarity"]
