"""Where things lie in a checkout of this repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
REPORTS = ROOT / "reports"
SHIPPED = ROOT / "models" / "e3sn.safetensors"
"""The trained model that comes with the repository."""


def from_checkout(path: str | Path) -> Path:
    """A path relative to the working directory or, in ``notebooks/``, where a notebook starts, to the repository."""
    return (ROOT if Path.cwd() == NOTEBOOKS else Path()) / path
