"""Where things lie in a checkout of this repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
REPORTS = ROOT / "reports"
SHIPPED = ROOT / "models" / "e3sn.safetensors"
"""The trained model that comes with the repository."""
