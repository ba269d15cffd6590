"""Follow objects through videos. This file names what can be saved of one; it imports nothing."""

FILES = {
    "masks": "masks",
    "cutout-png": "cutout",
    "table": "tracks.csv",
    "coco": "coco.json",
    "overlay": "overlay.mp4",
    "matte": "matte.mp4",
    "cutout": "cutout.mov",
}
"""Kinds of output, with their file or folder; they are finished in reverse order."""
DEFAULT_SAVE = ("masks", "overlay", "table")
