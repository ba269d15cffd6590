"""Score masks against the truth, by the rules of the official evaluator of semi-supervised DAVIS:

- The first and the last frame are left out.
- The objects are the ids 1..K. K is the highest id of the first truth mask. An id below K that this
  mask lacks is an object too: it scores 1 in frames where truth and prediction lack it.
- An id above K that appears later in the truth is background, and so is void (255).

A first mask of 0 and 255 only is DAVIS-2016: one object, and the predicted ids are merged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from e3sn_lib.data.types import MANY_IDS, VOID, Video, shows_one_object
from e3sn_lib.errors import InputError
from e3sn_lib.files import by_number, file_names, read_mask, write_csv
from e3sn_lib.metrics.measures import boundary_accuracy, region_similarity, statistics

if TYPE_CHECKING:
    import pandas as pd

LAYOUT = "annotations are SEQUENCE/FRAME.png, as in DAVIS/Annotations/480p"
SUMMARY_COLUMNS = ("J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


def score_sequence(masks: Iterable[NDArray[Any]], sequence: Video) -> pd.DataFrame:
    """Return J and F of every object in every evaluated frame of one video.

    Columns are sequence, object, frame (file name without suffix), J, F; ``attrs["notes"]`` says
    what was merged or left out. Only one pair of masks is in memory at a time. Raises InputError
    for too few or too many masks, a wrong size, an id above K, or no frame to evaluate.

    Args:
        masks: one (H, W) array of object ids per frame, in order, first and last included.
        sequence: the truth. With its `merge_ids`, predicted ids above 0 are merged too.
    """
    truth = _Truth(sequence)
    scores, given = [], 0
    for index, ids in enumerate(masks):
        given = index + 1
        if given > len(sequence):
            fault = f"there are more masks than its {len(sequence)} frames"
            raise InputError(f"sequence {sequence.name}: {fault}; give one per frame")
        if index in truth.evaluated:
            source = f"sequence {sequence.name}, frame {truth.frame(index)}"
            scores.append(truth.score(index, ids, source))
    if given < len(sequence):
        fault = f"no mask for frame {truth.frame(given)}"
        raise InputError(f"sequence {sequence.name}: {fault}; give one per frame")
    return _table(scores, truth.notes(scores))


def score_folder(masks: Path, annotations: Path, names: Iterable[str] = ()) -> pd.DataFrame:
    """Return J and F of masks from any method that are saved as PNG files.

    The rows are those of `score_sequence`, one sequence after the other. All ids above 0 are one
    object where the first truth mask has one value above 0 that is no id, such as 255 (DAVIS-2016).
    Raises InputError as `score_sequence`, or if a folder or a mask is missing or cannot be read.

    Args:
        masks, annotations: folders with SEQUENCE/FRAME.png, palette or grey images of object ids,
            or folders of one sequence with FRAME.png. First and last masks are not needed.
        names: the sequences to score; empty: all folders in `annotations`.
    """
    for role, folder in (("masks", masks), ("annotations", annotations)):
        if not folder.is_dir():
            layout = "it must hold SEQUENCE/FRAME.png"
            raise InputError(f"there is no folder of {role} at {folder}; {layout}")
    names = list(dict.fromkeys(names)) or _folders(annotations)
    if not names and any(annotations.glob("*.png")):  # the folder of one sequence, not of several
        annotations, names = annotations.resolve().parent, [annotations.resolve().name]
    if not names:
        raise InputError(f"there are no folders in {annotations}; {LAYOUT}")
    truths = [_Truth(_sequence(annotations / name)) for name in names]
    folders = [masks / name for name in names]
    if len(names) == 1 and not folders[0].is_dir() and any(masks.glob("*.png")):
        folders = [masks]
    pairs = list(zip(truths, folders, strict=True))
    surplus_masks = sum(truth.check_complete(folder) for truth, folder in pairs)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        scores = [
            list(pool.map(truth.score_file, truth.evaluated, repeat(folder)))
            for truth, folder in pairs
        ]
    notes = []
    merged = [truth.sequence.name for truth in truths if truth.sequence.merge_ids]
    if merged:
        which = "the truth" if len(merged) == len(truths) else f"the truth of {', '.join(merged)}"
        rule = "one object per sequence, predicted ids above 0 merged into it"
        notes.append(f"{which} is 0/255 as in DAVIS-2016: {rule}")
    for truth, own in zip(truths, scores, strict=True):
        notes += truth.notes(own)
    if surplus := ", ".join(sorted(set(_folders(masks)) - set(names))):
        notes.append(f"other folders of {masks}, not scored: {surplus}")
    if surplus_masks:
        notes.append(f"masks in {masks} of frames without truth, not scored: {surplus_masks}")
    return _table(chain.from_iterable(scores), notes)


def evaluate_sequence(masks: Iterable[NDArray[Any]], sequence: Video) -> pd.Series:
    """Return J&F-Mean and the mean, recall and decay of J and F, averaged over a video's objects.

    Values are 0 to 1, decays -1 to 1. Arguments and errors are those of `score_sequence`: masks of
    object ids for each frame of a video with true masks, as `davis_sequences` returns it.
    """
    return summarise(score_sequence(masks, sequence))[1]


def summarise(per_frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Return the statistics of each object over its frames, and their mean over all objects.

    The columns of the first are sequence, object, `SUMMARY_COLUMNS`, frames. The second has
    J&F-Mean and those six; every object counts the same, however many frames its video has. The
    rows are those of `score_sequence` or `score_folder`; raises InputError if there are none.
    """
    import pandas as pd

    if per_frame.empty:
        raise InputError("there are no scores to summarise; score at least one frame")
    rows = [
        (*key, *statistics(frames["J"]), *statistics(frames["F"]), len(frames))
        for key, frames in per_frame.groupby(["sequence", "object"], sort=False)
    ]
    per_object = pd.DataFrame(rows, columns=["sequence", "object", *SUMMARY_COLUMNS, "frames"])
    means = per_object[list(SUMMARY_COLUMNS)].mean()
    both = pd.Series({"J&F-Mean": (means["J-Mean"] + means["F-Mean"]) / 2})
    return per_object, pd.concat([both, means])


def write_official_csvs(out: Path, per_frame: pd.DataFrame, set_name: str) -> None:
    """Write ``global_results-SET.csv`` and ``per-sequence_results-SET.csv`` as the official
    evaluator does, 0 to 1. `per_frame` and errors are those of `summarise`."""
    per_object, overall = summarise(per_frame)
    names = per_object["sequence"] + "_" + per_object["object"].astype(str)
    means = per_object.assign(Sequence=names)[["Sequence", "J-Mean", "F-Mean"]]
    write_csv(out / f"global_results-{set_name}.csv", overall.to_frame().T)
    write_csv(out / f"per-sequence_results-{set_name}.csv", means)


class _Score(NamedTuple):
    """The scores of one frame, one row per object."""

    rows: list[tuple[str, int, str, float, float]]
    ignored: set[int]
    """Ids of the truth above K, void included."""
    soft: bool
    """Ids are merged, but the mask seems to have grey levels, such as probabilities."""


class _Truth:
    """A sequence with the objects that the official evaluator scores; refused if it has none."""

    def __init__(self, sequence: Video) -> None:
        name, count = sequence.name, len(sequence)
        if len(sequence.mask_paths) != count:
            fault = f"{len(sequence.mask_paths)} truth masks for {count} frames"
            raise InputError(f"sequence {name}: {fault}; scoring needs one per frame")
        if count <= 2:
            fault = f"only {count} frames, and the first and the last are not scored"
            raise InputError(f"sequence {name}: {fault}; leave it out")
        place = f"sequence {name}: the first truth mask {sequence.mask_paths[0]}"
        if not sequence.merge_ids and shows_one_object(sequence.mask_paths[0]):
            raise InputError(f"{place} has one value that is no id; it needs merge_ids")
        ids = set(np.unique(sequence.mask(0)).tolist()) - {0, VOID}
        if not ids:
            raise InputError(f"{place} shows no object; leave the sequence out")
        if max(ids) > MANY_IDS:  # such as 225, white in the palette that some programs make
            advice = "save PNGs of black and white, or of object ids 1, 2, ..."
            raise InputError(f"{place} has object id {max(ids)}; {advice}")
        self.sequence, self.evaluated = sequence, range(1, count - 1)
        self.objects = range(1, max(ids) + 1)
        self.absent = sorted(set(self.objects) - ids)  # ids below K that the first mask lacks

    def frame(self, index: int) -> str:
        return self.sequence.mask_paths[index].stem

    def score(self, index: int, ids: NDArray[Any], source: str) -> _Score:
        """Score the mask `ids` of a frame; `source` names it in errors."""
        if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "bui" or ids.ndim != 2:
            kind = f"{getattr(ids, 'dtype', type(ids).__name__)} of shape {np.shape(ids)}"
            raise InputError(f"{source} is {kind}; give whole numbers, (H, W)")
        truth = self.sequence.mask(index)
        if ids.shape != truth.shape:
            other = f"its truth {self.sequence.mask_paths[index]} is {_size(truth)}"
            raise InputError(f"{source} is {_size(ids)} pixels, but {other}")
        highest, count, merge = int(ids.max()), len(self.objects), self.sequence.merge_ids
        if highest > count and not merge:
            limit = f"the ids of the first truth mask end at {count}"
            raise InputError(f"{source} has id {highest}, but {limit}; use the truth's ids")
        soft = merge and bool(((ids > MANY_IDS) & (ids < VOID)).any())
        ids = ids > 0 if merge else ids
        rows = []
        for number in self.objects:
            pair = ids == number, truth == number
            j, f = region_similarity(*pair), boundary_accuracy(*pair)
            rows.append((self.sequence.name, number, self.frame(index), j, f))
        return _Score(rows, set(np.unique(truth[truth > count]).tolist()), soft)

    def score_file(self, index: int, folder: Path) -> _Score:
        path = folder / self.sequence.mask_paths[index].name
        return self.score(index, read_mask(path), f"mask {path}")

    def check_complete(self, folder: Path) -> int:
        """Return how many masks have no truth; refuse a folder that lacks masks."""
        if not folder.is_dir():
            fault = f"there are no masks for sequence {self.sequence.name} (no folder {folder})"
            raise InputError(f"{fault}; add them or name fewer sequences")
        given = set(file_names(folder, (".png",)))
        names = [path.name for path in self.sequence.mask_paths]
        if missing := [names[index] for index in self.evaluated if names[index] not in given]:
            more = f", and {len(missing) - 1} more of this sequence" if len(missing) > 1 else ""
            rule = "every frame but the first and the last needs one"
            raise InputError(f"missing mask {folder / missing[0]}{more}; {rule}")
        return len(given - set(names))

    def notes(self, scores: list[_Score]) -> list[str]:
        """Say what the official evaluator would not say."""
        ignored = set[int]().union(*(score.ignored for score in scores))
        notes = [f"object {n} is missing in the first truth mask, but scored" for n in self.absent]
        late = sorted(ignored - {VOID})
        notes += [f"object {n} is not in the first truth mask, so not scored" for n in late]
        if VOID in ignored:
            notes.append("void (255) in the truth is scored as background")
        if soft := sum(score.soft for score in scores):
            rule = "all above 0 count as the object"
            notes.append(f"{soft} masks have other values than 0 and 255; {rule}")
        return [f"{self.sequence.name}: {note}" for note in notes]


def _sequence(folder: Path) -> Video:
    paths = tuple(sorted(map(folder.joinpath, file_names(folder, (".png",))), key=by_number))
    if not paths:
        raise InputError(f"there are no PNG masks in {folder}; {LAYOUT}")
    return Video(folder.name, paths, paths, merge_ids=shows_one_object(paths[0]))


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("[!.]*/"))


def _size(mask: NDArray[Any]) -> str:
    return "x".join(str(length) for length in reversed(mask.shape))


def _table(scores: Iterable[_Score], notes: list[str]) -> pd.DataFrame:
    import pandas as pd

    rows = [row for score in scores for row in score.rows]
    table = pd.DataFrame(rows, columns=["sequence", "object", "frame", "J", "F"])
    table.attrs["notes"] = notes
    return table
