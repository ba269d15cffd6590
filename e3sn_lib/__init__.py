"""E3SN: an end-to-end Siamese network for video object segmentation, re-implemented as a reproducible study."""
