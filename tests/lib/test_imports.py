"""What an import of the library brings with it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import e3sn_lib

PUBLIC = [
    "Tracker",
    "boundary_accuracy",
    "build_model",
    "evaluate_sequence",
    "load_export",
    "load_model",
    "load_profile",
    "overlay",
    "read_frames",
    "region_similarity",
    "track_video",
]
STUDY_ONLY = {"papermill", "nbconvert", "matplotlib", "pandas"}
EVERY_MODULE = (
    "import pkgutil, importlib, e3sn_lib;"
    "[importlib.import_module(each.name) for each in pkgutil.walk_packages(e3sn_lib.__path__, 'e3sn_lib.')]"
)


def loaded(code: str) -> set[str]:
    """Top-level packages that are loaded after `code`, in a process of its own."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_no_module_of_the_library_brings_what_only_the_study_needs() -> None:
    packages = loaded(EVERY_MODULE)
    assert {"torch", "cv2", "pycocotools"} <= packages  # every module was imported
    assert not packages & {*STUDY_ONLY, "e3sn_study"}


def test_the_package_itself_brings_nothing() -> None:
    assert not loaded("import e3sn_lib; dir(e3sn_lib)") & {*STUDY_ONLY, "torch", "numpy", "cv2"}


def test_public_names_are_there_and_no_others() -> None:
    for name in PUBLIC:
        assert getattr(e3sn_lib, name).__name__ == name
    assert sorted(e3sn_lib.__all__) == sorted(PUBLIC)
    with pytest.raises(AttributeError, match="has no attribute 'track'"):
        e3sn_lib.track  # noqa: B018


def test_the_version_is_that_of_the_installed_package() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "e3sn_study", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"e3sn {importlib.metadata.version('e3sn-study')}\n"
