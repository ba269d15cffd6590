"""From boxes to files: each output is opened by something else than what wrote it."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import cv2
import numpy as np
import pytest
from made_videos import Image, bar, bars_seen, pitch, still, write_video
from PIL import Image as PillowImage
from planted import Planted
from pycocotools.coco import COCO

from e3sn_lib.config import TrackConfig
from e3sn_lib.data.davis import davis_sequences
from e3sn_lib.errors import InputError, deferred_interrupts
from e3sn_lib.files import read_mask
from e3sn_lib.model.network import E3SN
from e3sn_lib.tracking import FILES
from e3sn_lib.tracking.clip import ClipWriter
from e3sn_lib.tracking.own_video import track_video
from e3sn_lib.tracking.prompts import Prompt, prompt_from_text
from e3sn_lib.tracking.session import Seen, Session
from e3sn_lib.tracking.tracker import Tracker
from e3sn_lib.tracking.video import open_video, read_frames

BOX, OTHER = (20.0, 16.0, 20.0, 20.0), (60.0, 30.0, 16.0, 20.0)


@pytest.fixture
def planted() -> Tracker:
    """Sees each object where it was, as a square of 10 to 20 pixels."""
    return Tracker(Planted(side=64), TrackConfig(penalty_k=0, window_influence=0))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twelve frames of uneven length, with sound and pixels that are wider than high."""
    ticks = [0, 10, 12, 20, 30, 34, 40, 50, 60, 62, 70, 80]
    frames = [bar(number) for number in range(12)]
    write_video(tmp_path / "v.mp4", frames, ticks, aspect=Fraction(4, 3), tone="aac")
    return tmp_path / "v.mp4"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def masks(out: Path) -> list[Image]:
    return [np.array(PillowImage.open(path)) for path in sorted((out / "masks").iterdir())]


def test_a_video_is_followed_as_its_frames_are(
    tiny_model: E3SN, data_root: Path, tmp_path: Path
) -> None:
    """Masks on the disk are those that a session gives, under the frames' names."""
    video = davis_sequences(data_root / "synthetic", 2016, "val")[0]
    box = [20.0, 20.0, 60.0, 50.0]
    tracker = Tracker(tiny_model, TrackConfig(mask_threshold=0.1))  # untrained masks reach that
    tracked = track_video(tracker, video.frame_paths[0].parent, [box], tmp_path)
    session = Session(tracker)
    session.add(box)
    expected = [session.step(video.frame(index)) for index in range(len(video))]
    assert all(each.ids.any() for each in expected)
    rows = table(tmp_path / "tracks.csv")
    assert [float(row["score"]) for row in rows] == [
        round(each.objects[1].score, 4) for each in expected
    ]
    for path, result in zip(video.frame_paths, expected, strict=True):
        assert np.array_equal(read_mask(tmp_path / "masks" / f"{path.stem}.png"), result.ids)
    assert len(list(read_frames(tmp_path / "overlay.mp4"))) == len(video) == tracked.frames
    assert (tracked.objects, tracked.stopped, tracked.notes) == (1, False, ())


class TestOutputs:
    @pytest.fixture
    def out(self, planted: Tracker, video: Path, tmp_path: Path) -> Path:
        tracked = track_video(planted, video, [BOX, OTHER], tmp_path / "out", save=list(FILES))
        assert tracked.files == tuple(tmp_path / "out" / name for name in FILES.values())
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES.values())
        return tmp_path / "out"

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
    def test_everything_says_the_same(self, out: Path, video: Path) -> None:
        ids = masks(out)
        frames = list(read_frames(video))
        self.check_table(table(out / "tracks.csv"), ids)
        self.check_coco(COCO(str(out / "coco.json")), ids)
        self.check_clips(out, ids, frames)
        for path, each, frame in zip(sorted((out / "cutout").iterdir()), ids, frames, strict=True):
            image = np.array(PillowImage.open(path))
            assert np.array_equal(image[..., 3] > 0, each > 0)
            assert np.array_equal(image[each > 0][:, :3], frame[each > 0])
            assert image[:2].max() == 0

    @staticmethod
    def check_table(rows: list[dict[str, str]], ids: list[Image]) -> None:
        assert [(int(row["frame"]), int(row["object"])) for row in rows] == [
            (frame, number) for frame in range(12) for number in (1, 2)
        ]
        assert [float(row["seconds"]) for row in rows[6:10:2]] == [0.2, 0.3]
        for row in rows:
            mask = ids[int(row["frame"])] == int(row["object"])
            assert int(row["mask_area"]) == mask.sum()
            assert mask.sum() > 50
        sides = [float(rows[0][side]) for side in ("x", "y", "width", "height")]
        assert (rows[0]["name"], rows[0]["score"], sides) == ("00000", "1.0", list(BOX))

    @staticmethod
    def check_coco(coco: COCO, ids: list[Image]) -> None:
        names = [image["file_name"] for image in coco.loadImgs([0, 11])]
        assert names == ["frame_000000.png", "frame_000011.png"]
        assert len(coco.anns) == 24
        for each in coco.anns.values():
            mask = ids[each["image_id"]] == each["track_id"]
            assert np.array_equal(coco.annToMask(each), mask)
            rows, columns = np.nonzero(mask)
            assert each["bbox"][:2] == [columns.min(), rows.min()]
            assert each["area"] == mask.sum()
            assert each["attributes"] == {"track_id": each["track_id"]}

    @staticmethod
    def check_clips(out: Path, ids: list[Image], frames: list[Image]) -> None:
        seen = np.array(masks(out)) > 0
        shown: dict[str, Any] = {}
        for name in ("overlay.mp4", "matte.mp4", "cutout.mov"):
            with av.open(str(out / name)) as container:
                stream = container.streams.video[0]
                decoded = list(container.decode(stream))
                assert stream.sample_aspect_ratio == Fraction(4, 3)
            ticks = [frame.pts * frame.time_base * 100 for frame in decoded]
            assert ticks == [0, 10, 12, 20, 30, 34, 40, 50, 60, 62, 70, 80]
            shown[name] = np.array([frame.to_ndarray(format="rgba") for frame in decoded])
        assert ((shown["matte.mp4"][..., 1] > 127) == seen).mean() > 0.99
        assert np.array_equal(shown["cutout.mov"][..., 3] > 127, seen)
        far = np.abs(shown["overlay.mp4"][..., :3].astype(int) - frames)
        assert far[~seen].mean() < 8 < far[seen].mean()
        assert bars_seen(shown["overlay.mp4"][..., :3]) == [number % 9 for number in range(12)]
        assert pitch(out / "overlay.mp4") == pytest.approx((0.84, 440), rel=0.06)

    def test_a_folder_keeps_its_names(self, planted: Tracker, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        for number in (2, 10, 1):
            cv2.imwrite(str(tmp_path / "in" / f"f{number}.jpg"), bar(number))
        out = tmp_path / "out"
        track_video(planted, tmp_path / "in", [BOX], out, save=["masks", "coco", "table"])
        names = sorted(path.name for path in (out / "masks").iterdir())
        assert names == ["f1.png", "f10.png", "f2.png"]
        assert [row["name"] for row in table(out / "tracks.csv")] == ["f1", "f2", "f10"]
        images = json.loads((out / "coco.json").read_text())["images"]
        assert [image["file_name"] for image in images] == ["f1.jpg", "f2.jpg", "f10.jpg"]

    def test_clean_masks(
        self, planted: Tracker, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def speckled(self: object, frame: Image) -> Seen:
            ids = np.zeros(frame.shape[:2], np.uint8)
            ids[5:30, 5:30], ids[10:15, 10:15], ids[50:52, 50:52] = 1, 0, 1
            return Seen(ids, {})

        monkeypatch.setattr("e3sn_lib.tracking.session.Session.step", speckled)
        track_video(planted, video, [BOX], tmp_path / "out", clean=True, save=["masks"])
        assert [int((mask == 1).sum()) for mask in masks(tmp_path / "out")] == [625] * 12


class TestPrompts:
    def test_objects_that_come_and_are_corrected(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        given = [Prompt(BOX, 4), Prompt((70, 4, 20, 20), 8, 1, True)]
        track_video(planted, video, [OTHER], tmp_path, prompts=given, save=["table"])
        rows = table(tmp_path / "tracks.csv")
        assert [int(row["frame"]) for row in rows if row["object"] == "2"] == list(range(4, 12))
        first = [row for row in rows if row["object"] == "1"]
        assert [int(row["frame"]) for row in first] == list(range(12))
        assert [float(first[8][side]) for side in ("x", "y", "width", "height")] == [70, 4, 20, 20]
        assert float(first[7]["x"]) < 65 < float(first[9]["x"])

    def test_some_of_the_frames(self, planted: Tracker, video: Path, tmp_path: Path) -> None:
        track_video(planted, video, [BOX], tmp_path, first=2, last=9, stride=3)
        assert [row["frame"] for row in table(tmp_path / "tracks.csv")] == ["2", "5", "8"]
        names = [path.name for path in sorted((tmp_path / "masks").iterdir())]
        assert names == ["00002.png", "00005.png", "00008.png"]
        with av.open(str(tmp_path / "overlay.mp4")) as container:
            times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
        assert times == [0, Fraction(22, 100), Fraction(48, 100)]

    def test_backward_is_forward_through_the_reversed_video(
        self, tiny_model: E3SN, tmp_path: Path
    ) -> None:
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(8)]
        for name, order in (("in", frames), ("reversed", frames[4::-1])):
            (tmp_path / name).mkdir()
            for number, frame in enumerate(order):
                cv2.imwrite(str(tmp_path / name / f"{number}.png"), frame)
        tracker, saved = Tracker(tiny_model), ["masks", "table"]
        there, back, plain = tmp_path / "there", tmp_path / "back", tmp_path / "plain"
        prompts = [Prompt(OTHER, 4)]
        track_video(tracker, tmp_path / "reversed", [OTHER], there, save=saved)
        track_video(tracker, tmp_path / "in", [], back, prompts=prompts, backward=True, save=saved)
        track_video(tracker, tmp_path / "in", [], plain, prompts=prompts, save=saved)
        assert all(map(np.array_equal, masks(back)[4::-1], masks(there)))
        assert all(map(np.array_equal, masks(back)[4:], masks(plain)[4:]))
        assert max(mask.max() for mask in masks(plain)[:4]) == 0
        sides = ("x", "y", "width", "height", "score")
        ways = [table(out / "tracks.csv") for out in (back, there)]
        boxes = [[[row[side] for side in sides] for row in rows] for rows in ways]
        assert boxes[0][4::-1] == boxes[1]
        assert [row["frame"] for row in ways[0]] == [str(number) for number in range(8)]

    def test_backward_each_object_is_followed_from_its_first_box(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        """A box that corrects an object on the way says nothing of the frames before."""
        given, told = [Prompt((70, 4, 20, 20), 2, 1, True), Prompt(OTHER, 4)], []
        track_video(
            planted, video, [BOX], tmp_path, prompts=given, backward=True, save=["table"],
            watch=lambda *numbers: told.append(numbers),
        )  # fmt: skip
        rows = table(tmp_path / "tracks.csv")
        for number in ("1", "2"):
            assert [int(row["frame"]) for row in rows if row["object"] == number] == [*range(12)]
        first = [float(row["x"]) for row in rows if row["object"] == "1"]
        assert first[0] == 20
        assert max(first[:2]) < 40 < min(first[2:])
        # five steps back and twelve forward
        assert told == [(taken, 17) for taken in range(1, 18)]

    def test_a_frame_that_is_not_there(self, planted: Tracker, tmp_path: Path) -> None:
        write_video(tmp_path / "v.mkv", [bar(0)] * 5)  # does not say how many it has
        video, out = tmp_path / "v.mkv", tmp_path / "out"
        with pytest.raises(InputError, match="ends before frame 7, which has a box"):
            track_video(planted, video, [BOX], out, prompts=[Prompt(BOX, 7)])
        assert len(list((out / "masks").iterdir())) == 5
        with pytest.raises(InputError, match="ends before frame 9"):
            track_video(planted, video, [BOX], out, first=9)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "v.mkv"]


class TestEnds:
    def test_stopped_it_keeps_the_frames_that_are_done(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        steps: list[tuple[int, int]] = []
        tracked = track_video(
            planted,
            video,
            [BOX],
            tmp_path / "out",
            save=list(FILES),
            watch=lambda done, total: steps.append((done, total)),
            stopped=lambda: len(steps) == 5,
        )
        assert (tracked.frames, tracked.stopped, tracked.notes) == (5, True, ())
        assert steps == [(number, 12) for number in range(1, 6)]
        assert len(masks(tmp_path / "out")) == 5
        assert len(list(read_frames(tmp_path / "out" / "overlay.mp4"))) == 5
        assert len(table(tmp_path / "out" / "tracks.csv")) == 5
        assert len(COCO(str(tmp_path / "out" / "coco.json")).imgs) == 5

    def test_stopped_once_it_stays_stopped(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        """A key that was pressed is told once only, to whichever thread asks first."""
        out = tmp_path / "out"
        whole = track_video(planted, video, [BOX], out)
        asked = count()
        tracked = track_video(planted, video, [BOX], out, stopped=lambda: next(asked) == 9)
        assert tracked.stopped
        assert 0 < tracked.frames < whole.frames
        assert len(masks(out)) == whole.frames
        assert len(masks(tmp_path / "out-stopped")) == tracked.frames

    def test_a_stop_after_the_last_frame_is_none(
        self, planted: Tracker, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As Ctrl-C while a long clip is being completed."""
        closed: list[bool] = []
        close = ClipWriter.close
        monkeypatch.setattr(ClipWriter, "close", lambda clip: (close(clip), closed.append(True)))
        tracked = track_video(planted, video, [BOX], tmp_path / "out", stopped=lambda: bool(closed))
        assert closed
        assert not tracked.stopped

    def test_stopped_on_the_way_back_it_writes_nothing(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        given = [Prompt(BOX, 6)]
        out = tmp_path / "out"
        tracked = track_video(
            planted, video, [], out, prompts=given, backward=True, stopped=lambda: True
        )
        assert (tracked.frames, tracked.files, tracked.stopped) == (0, (), True)
        assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]

    def test_stopped_while_it_skips_frames(self, planted: Tracker, tmp_path: Path) -> None:
        write_video(tmp_path / "v.mp4", [bar(number) for number in range(200)])
        asked = count()
        tracked = track_video(
            planted,
            tmp_path / "v.mp4",
            [BOX],
            tmp_path / "out",
            first=190,
            stopped=lambda: next(asked) >= 20,
        )
        assert (tracked.frames, tracked.files, tracked.stopped) == (0, (), True)
        assert next(asked) < 30  # it was asked once a frame, and no further frame was decoded
        assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]

    @pytest.mark.parametrize("fails", ["write_mask", "ClipWriter.write", "ClipWriter.close"])
    def test_a_full_disk_ends_it_and_leaves_nothing(
        self,
        planted: Tracker,
        video: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        fails: str,
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(f"e3sn_lib.tracking.outputs.{fails}", full)
        with pytest.raises(OSError, match="No space left on device"):
            track_video(planted, video, [BOX], tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]

    @pytest.mark.parametrize(
        "lacking",
        [
            RuntimeError("CUDA error: cannot allocate memory\non device 0"),
            cv2.error("(-4:Insufficient memory) Failed to allocate 9 bytes on\ndevice 0"),
        ],
    )
    def test_short_of_memory_it_keeps_the_frames_that_are_done(
        self,
        planted: Tracker,
        video: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        lacking: Exception,
    ) -> None:
        step, left = Session.step, iter([True] * 3)

        def short(self: Session, frame: Image) -> Seen:
            if not next(left, False):
                raise lacking
            return step(self, frame)

        monkeypatch.setattr(Session, "step", short)
        with pytest.raises(InputError, match=r"not enough memory: .*device 0; .*3 frames, is in"):
            track_video(planted, video, [BOX], tmp_path / "out")
        assert len(masks(tmp_path / "out")) == 3

    def test_results_are_moved_together_whatever_is_pressed(
        self, planted: Tracker, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace, pressed = Path.replace, iter([True])

        def press(path: Path, target: Path) -> Path:
            if target.parents[1].name == "out" and next(pressed, False):
                os.kill(os.getpid(), signal.SIGINT)
            return replace(path, target)

        monkeypatch.setattr("e3sn_lib.errors.ONE_PRESS", 0.0)  # each further one interrupts
        with deferred_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.setattr(Path, "replace", press)
            track_video(planted, video, [BOX], tmp_path / "out")
        assert next(pressed, False) is False
        assert len(masks(tmp_path / "out")) == 12
        assert (tmp_path / "out" / "overlay.mp4").is_file()

    def test_what_was_there_before_is_replaced_or_named(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        track_video(planted, video, [BOX], out, save=["masks", "matte", "table"])
        tracked = track_video(planted, video, [BOX], out, last=3)
        other = out / "masks" / "00004.png"
        assert tracked.notes == (f"older files are still there: 9, such as {other}",)
        assert len(table(out / "tracks.csv")) == 4

    def test_a_part_of_the_frames_does_not_replace_what_is_complete(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        track_video(planted, video, [BOX], out)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for name in ("out-stopped", "out-stopped-2"):
            done: list[int] = []
            tracked = track_video(
                planted,
                video,
                [BOX],
                out,
                watch=lambda number, _, done=done: done.append(number),  # type: ignore[misc]
                stopped=lambda done=done: len(done) == 5,  # type: ignore[misc]
            )
            assert tracked.stopped
            assert len(table(tmp_path / name / "tracks.csv")) == tracked.frames == 5
            assert tracked.notes == (f"the earlier results in {out} are as they were",)
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    @pytest.mark.parametrize("out", [".", "..", "../here"])
    def test_stopped_in_the_working_folder(
        self,
        planted: Tracker,
        video: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        out: str,
    ) -> None:
        (tmp_path / "here" / "below").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "here" / "below" if out == ".." else tmp_path / "here")
        track_video(planted, video, [BOX], Path(out), save=["table"])
        asked = count()
        stopped = track_video(
            planted, video, [BOX], Path(out), save=["table"], stopped=lambda: next(asked) > 20
        )
        assert 0 < len(table(tmp_path / "here-stopped" / "tracks.csv")) == stopped.frames < 12
        assert len(table(tmp_path / "here" / "tracks.csv")) == 12

    def test_what_cannot_be_put_in_place_is_kept(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        blocked = tmp_path / "out" / "masks" / "00003.png"
        blocked.mkdir(parents=True)
        with pytest.raises(InputError, match=r"00003\.png is in the way .* are in (.*)$") as caught:
            track_video(planted, video, [BOX], tmp_path / "out")
        kept = Path(str(caught.value).rsplit(" are in ", 1)[1])
        found = {path.name for each in (tmp_path / "out", kept) for path in each.rglob("*.*")}
        assert found == {*(f"{n:05d}.png" for n in range(12)), "tracks.csv", "overlay.mp4"}
        assert blocked.is_dir()

    def test_videos_side_by_side_do_not_disturb_each_other(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        def track(number: int) -> tuple[Path, ...]:
            out = tmp_path / str(number) / "out"  # the same name, below a folder that is new
            return track_video(planted, video, [BOX], out, save=["masks", "table"]).files

        with ThreadPoolExecutor(4) as pool:
            for files in pool.map(track, range(4)):
                assert [path.name for path in files] == ["masks", "tracks.csv"]
                assert len(list(files[0].iterdir())) == 12

    @pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
    def test_masks_on_another_disk(self, planted: Tracker, video: Path, tmp_path: Path) -> None:
        with TemporaryDirectory(".disk", dir="/dev/shm") as other:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "masks").symlink_to(other)
            track_video(planted, video, [BOX], tmp_path / "out")
            assert len(masks(tmp_path / "out")) == len(list(Path(other).iterdir())) == 12

    def test_a_link_to_nothing_is_refused(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "out").symlink_to(tmp_path / "nothing")
        with pytest.raises(InputError, match="out is a link to a place that is not there"):
            track_video(planted, video, [BOX], tmp_path / "out")

    def test_a_name_that_leaves_no_room_for_another_is_refused(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="the name of --out has over 230 bytes"):
            track_video(planted, video, [BOX], tmp_path / ("ü" * 120))

    def test_what_is_left_out_is_said(self, planted: Tracker, tmp_path: Path) -> None:
        frames = tmp_path / "frames"
        frames.mkdir()
        for number in range(3):
            cv2.imwrite(str(frames / f"{number}.png"), bar(number))
        (frames / "3.heic").write_bytes(b"of a phone")
        (frames / ".hidden").write_text("of no interest")
        tracked = track_video(planted, frames, [BOX], tmp_path / "out")
        assert tracked.notes == (f"left out: 1 file of other kinds in {frames}, such as 3.heic",)

    def test_an_object_under_another_is_named(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        inside = (BOX[0] + 4, BOX[1] + 4, BOX[2] - 8, BOX[3] - 8)
        boxes = [BOX, inside, OTHER]
        tracked = track_video(planted, video, boxes, tmp_path / "out", save="masks")
        seen = {number for each in masks(tmp_path / "out") for number in np.unique(each).tolist()}
        assert seen == {0, 1, 3}
        assert tracked.notes == ("all masks of object 2 are empty; another may cover it",)

    def test_a_file_on_the_way_to_the_results(
        self, planted: Tracker, video: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "note").write_text("kept")
        with pytest.raises(InputError, match=r"would lie in .*note, a file; give a new folder"):
            track_video(planted, video, [BOX], tmp_path / "note" / "deep" / "out")

    def test_links_that_lead_nowhere(self, planted: Tracker, video: Path, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        with pytest.raises(InputError, match="no video or folder of frames at "):
            track_video(planted, tmp_path / "loop", [BOX], tmp_path / "out")
        with pytest.raises(InputError, match="loop is a link to a place that is not there"):
            track_video(planted, video, [BOX], tmp_path / "loop")

    def test_a_colon_is_no_protocol(
        self, planted: Tracker, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        video.rename("10:00:00.mp4")
        for _ in range(2):
            tracked = track_video(planted, "10:00:00.mp4", [BOX], Path("10:30"))
            assert tracked.frames == 12

    def test_kinds_may_come_one_by_one(self, planted: Tracker, video: Path, tmp_path: Path) -> None:
        saved = (kind for kind in ("masks", "table"))
        tracked = track_video(planted, video, [BOX], tmp_path / "out", save=saved)  # type: ignore[arg-type]
        assert len(tracked.files) == 2

    def test_frames_that_cannot_be_read_are_said(self, planted: Tracker, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(20)]
        write_video(tmp_path / "whole.mp4", noise, options={"movflags": "faststart"})
        content = (tmp_path / "whole.mp4").read_bytes()
        (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
        tracked = track_video(planted, tmp_path / "cut.mp4", [BOX], tmp_path / "out")
        seconds = f"the file announces 0.8 s, {tracked.frames / 25:.1f} s are there"
        assert f"frames seem to be missing: {seconds}" in tracked.notes

    def test_frames_that_an_edit_list_hides_are_not_missed(
        self, planted: Tracker, tmp_path: Path
    ) -> None:
        """A clip that was trimmed without encoding it anew still holds the frames before."""
        write_video(tmp_path / "whole.mp4", [bar(number) for number in range(20)])
        options = {"avoid_negative_ts": "disabled"}
        with (
            av.open(str(tmp_path / "whole.mp4")) as whole,
            av.open(str(tmp_path / "trimmed.mp4"), "w", options=options) as trimmed,
        ):
            stream = trimmed.add_stream_from_template(whole.streams.video[0])
            for packet in whole.demux(video=0):
                if packet.dts is not None:
                    begin = round(7 * Fraction(1, 25) / packet.time_base)
                    packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
                    packet.stream = stream
                    trimmed.mux(packet)
        with av.open(str(tmp_path / "trimmed.mp4")) as trimmed:
            assert trimmed.streams.video[0].frames == 20
        tracked = track_video(planted, tmp_path / "trimmed.mp4", [BOX], tmp_path / "out")
        assert (tracked.frames, tracked.notes) == (13, ())

    def test_reading_backwards_finds_no_damage_where_none_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a jump into a group of pictures some lean on frames before it."""
        options = {"x264-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:scenecut=0"}
        frames = [bar(number) for number in range(60)]
        write_video(tmp_path / "v.mp4", frames, options=options)
        monkeypatch.setattr("e3sn_lib.tracking.video.HELD_BYTES", 1)
        source = open_video(tmp_path / "v.mp4")
        seen = [image for _, image in source.backwards(range(60))]
        assert bars_seen(seen) == [number % 9 for number in reversed(range(60))]
        assert not source.damaged

    def test_damage_is_said(self, planted: Tracker, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(20)]
        write_video(tmp_path / "v.ts", noise)
        content = (tmp_path / "v.ts").read_bytes()
        (tmp_path / "v.ts").write_bytes(content[: len(content) // 2])
        tracked = track_video(planted, tmp_path / "v.ts", [BOX], tmp_path / "out")
        assert tracked.frames < 20
        assert (
            "parts of the file are damaged; frames or sound are left out or wrong" in tracked.notes
        )


class TestRefused:
    @pytest.mark.parametrize(
        ("video", "out"),
        [("in", "in"), ("in", "in/deep"), ("o/masks", "o"), ("o/overlay.mp4", "o")],
    )
    def test_outputs_on_or_in_the_input(
        self, planted: Tracker, tmp_path: Path, video: str, out: str
    ) -> None:
        path = tmp_path / video
        path.parent.mkdir(exist_ok=True)
        if path.suffix:
            write_video(path, [bar(0)] * 2)
        else:
            path.mkdir()
            cv2.imwrite(str(path / "0.png"), bar(0))
        before = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*")}
        with pytest.raises(InputError, match="would lie on or in"):
            track_video(planted, path, [BOX], tmp_path / out)
        assert {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*")} == before

    def test_the_input_by_another_name(self, planted: Tracker, video: Path, tmp_path: Path) -> None:
        """As on disks that ignore case; here the two names are two links to one file."""
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "overlay.mp4").hardlink_to(video)
        with pytest.raises(InputError, match="would lie on or in"):
            track_video(planted, video, [BOX], tmp_path / "out")

    def test_a_range_that_cannot_be(self, planted: Tracker, video: Path, tmp_path: Path) -> None:
        for wrong in ({"first": -1}, {"stride": 0}, {"last": -1}, {"first": 3, "last": 2}):
            with pytest.raises(
                InputError, match="first must be 0 or more, last not before it, and"
            ):
                track_video(planted, video, [BOX], tmp_path / "out", **wrong)
        with pytest.raises(InputError, match="begins in frame 99, but the last frame is"):
            track_video(planted, video, [BOX], tmp_path / "out", first=99)
        assert len(track_video(planted, video, [BOX], tmp_path / "out", save="table").files) == 1

    def test_frames_too_wide_for_a_clip(self, planted: Tracker, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        cv2.imwrite(str(tmp_path / "in" / "0.png"), still(9, 9, 9, 20000, 20))
        box, out = (100, 0, 20, 20), tmp_path / "out"
        words = r"are 20000x20, but a clip has up to 16384.*leave out overlay"
        with pytest.raises(InputError, match=words):
            track_video(planted, tmp_path / "in", [box], out)
        assert not out.exists()
        track_video(planted, tmp_path / "in", [box], out, save=["masks", "table"])
        assert masks(out)[0].shape == (20, 20000)

    def test_an_unknown_output(self, planted: Tracker, video: Path, tmp_path: Path) -> None:
        words = "cannot save 'gif'; choose from masks, cutout-png, table"
        with pytest.raises(InputError, match=words):
            track_video(planted, video, [BOX], tmp_path / "out", save=["masks", "gif"])

    def test_what_is_in_the_way(self, planted: Tracker, video: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "masks").write_text("mine")
        with pytest.raises(InputError, match="masks is in the way"):
            track_video(planted, video, [BOX], tmp_path / "out")


def test_the_example_can_be_tried_as_its_page_says(planted: Tracker, tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "examples"
    words = (folder / "README.md").read_text().split("--box ", 1)[1].split()[0]
    box = prompt_from_text(words).box_frame_xywh
    assert (folder / "cockatoo.mp4").stat().st_size < 1e6
    tracked = track_video(planted, folder / "cockatoo.mp4", [box], tmp_path, save=["table"])
    assert (tracked.frames, tracked.notes) == (48, ())
