"""JSON files of record, and the folder of a run, which is bound to the data it was trained on."""

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from e3sn_lib.config import Profile, TrackConfig
from e3sn_lib.data.sources import TrainSets
from e3sn_lib.errors import InputError
from e3sn_lib.profiles.identity import UNTRAINED, run_name
from e3sn_study.records.schema import SETTINGS
from e3sn_study.records.store import digest


class Record(BaseModel):
    """A JSON file of record; further entries are allowed."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    _what: ClassVar[str] = "record"
    _remedy: ClassVar[str] = "make it again with e3sn reproduce"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in a file; raises InputError if the file is absent or damaged, or
        lacks an entry."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise cls.misfit(path, f"{place}: {first['msg']}".removeprefix(": ")) from error
        except OSError as error:
            raise cls.misfit(path, str(error.strerror)) from error

    @classmethod
    def misfit(cls, path: Path, problem: str) -> InputError:
        """Return the error that names a file, what is wrong with it, and what to do."""
        return InputError(f"{path} is no {cls._what} ({problem}); {cls._remedy}")


class Summary(Record):
    """What a training says of itself at its end: ``summary.json`` of its folder."""

    _what = "summary of a training"
    _remedy = "delete the folder to train it again"
    run: str
    variant: str
    seed: int
    pairs: int = Field(gt=0, le=10**11)  # the legs together are a valid ``train.pairs``
    pairs_before: int = Field(0, ge=0, le=10**11)
    """Pairs seen by the model that the run began with."""
    seconds: float = Field(ge=0)
    peak_memory_mb: float = Field(ge=0)
    """In MiB."""


class _TrainingSet(BaseModel):
    name: str
    tracks: int


_MODEL = "train.init_weights="
TOLD_ELSEWHERE = tuple(each + end for each in UNTRAINED for end in "=.")
"""Beginnings of overrides that do not change a training. Some have entries of their own."""


def settings_text(overrides: Iterable[str]) -> str:
    """Return the changed settings of a run as one text, in alphabetical order."""
    return " ".join(sorted(each.replace(" ", "") for each in told(overrides)))


def told(overrides: Iterable[str]) -> list[str]:
    """Return the changed settings of a run without those that change no run, and without folders of
    this machine."""
    kept = (each for each in overrides if not each.startswith(TOLD_ELSEWHERE))
    return [f"{_MODEL}MODEL" if each.startswith(_MODEL) else each for each in kept]


def with_digest(overrides: Iterable[str], config: Mapping[str, Any]) -> list[str]:
    """Return the recorded changes of a run, with the digest of its first weights in place of their
    file, which the record does not name."""
    known = f"train.init_sha256='{config.get('train', {}).get('init_sha256', '')}'"
    return [known if each.startswith(_MODEL) else each for each in overrides]


def without_places(profile: Profile) -> Profile:
    """Return the settings of a run without folders of this machine."""
    train = replace(profile.train, init_weights="", backup="")
    return replace(profile, train=train, data=replace(profile.data, root=""))


class RunRecord(Summary):
    """The record of a training run, with the entries of its environment beside the others."""

    _what = "record of a run"
    _remedy = Record._remedy
    overrides: list[str]
    config: dict[str, Any] = {}
    """All settings, see `without_places`; older records lack them."""
    settings: str = ""
    """The overrides as text, in alphabetical order."""
    first_weights: str = ""
    """Digest of the model that the run was told to begin with, if any."""
    date: str = ""
    profile: str = ""
    data: list[_TrainingSet] = []
    absent: list[str] = []
    track: dict[str, Any] = {}
    """Settings of inference."""
    packages: dict[str, str] | None = None
    commit: str = "unknown"
    resumed: list[dict[str, Any]] = []
    """What differed from the beginning, for each process that continued the run."""
    command: str = "unknown"
    precision: str = "unknown"
    cpu: str = "unknown"
    machine: str = ""
    synthetic: bool | None = None
    """Whether a training set or a benchmark is procedural; older records leave it open."""
    frozen: bool | None = None
    """Whether the backbone is never trained; older records leave it open."""

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, content: Any) -> Any:
        environment = content.get("environment") if isinstance(content, dict) else None
        return environment | content if isinstance(environment, dict) else content

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """Fill in what follows from the overrides, and what older records leave open."""
        self.settings, self.machine = settings_text(self.overrides), self.machine or self.cpu
        train = self.config.get("train", {})
        if not isinstance(train, dict):
            raise ValueError("config.train is no set of settings")
        if any(each.startswith(_MODEL) for each in self.overrides):
            self.first_weights = train.get("init_sha256", "")
        changed = dict(each.partition("=")[::2] for each in self.settings.split())
        if self.synthetic is None:
            self.synthetic = any(each.name.startswith("synthetic") for each in self.data)
        if self.frozen is None:
            self.frozen = float(changed.get("train.unfreeze_at", 0)) >= 1
        if self.track and not {*SETTINGS} <= {*self.track}:
            raise ValueError("track lacks a setting of inference")
        TrackConfig(**self.track)  # refuses values that cannot be
        shlex.split(self.command)  # refuses quotes that do not end
        return self


class _Notebook(BaseModel):
    name: str
    status: str
    seconds: float = Field(ge=0)


class Manifest(Record):
    """How the notebooks ended."""

    _what = "record of notebooks"
    notebooks: list[_Notebook]


class Slider(Record):
    """Frames of a few videos for the slider of the report page, see `slider_frames`."""

    _what = "record of frames"
    videos: list[dict[str, Any]]


DATA = "data.json"
Files = dict[str, str]
"""The `digest` of each training set, by its name, and of the file of initial weights."""


class DataRecord(Record):
    """The files that a run was trained on: ``data.json`` of its folder."""

    _what = "record of a run's data"
    _remedy = "delete it if the data are as they were when the run was trained"
    files: Files


def files_of(profile: Profile, sets: TrainSets) -> Files:
    """Return the digests of a run's training sets and of its file of initial weights, if any. How a
    mask's file is read does not count: the run's name already depends on these settings."""
    files: Files = {}
    for tracks, _ in sets.opened:
        parts = (
            (track.name, frame.image, getattr(frame.mask, "path", frame.mask), frame.box_frame_xyxy)
            for track in tracks.tracks
            for frame in track.frames
        )
        files[tracks.name] = digest(files.get(tracks.name), parts)
    with suppress(InputError):
        from e3sn_lib.model.weights import backbone_file  # only a training needs torch

        files["weights"] = digest(backbone_file(profile.train.weights, Path(profile.data.root)))
    return files


def run_folder(runs: Path, profile: Profile, sets: TrainSets, files: Files) -> Path:
    """Return the folder of a run in `runs`.

    Its name is what `run_name` returns. Where that folder holds a run of other files, a digest of
    these files is added to the name. A run whose files are not on record counts as one of these.
    """
    folder = runs / run_name(profile, sets)
    for record in (each / DATA for each in places(folder, profile)):
        if record.is_file():
            known = DataRecord.read(record).files
            if any(known.get(name, value) != value for name, value in files.items()):
                return folder.with_name(f"{folder.name}-{digest(sorted(files.items()))[:8]}")
    return folder


def places(folder: Path, profile: Profile) -> list[Path]:
    """Return where files of a run are: in its folder, and in that of its backup, if it has one."""
    backup = profile.train.backup
    return [folder, *([Path(backup) / folder.name] if backup else [])]
