"""Read videos, frame by frame, from a file or a folder of images; draw objects on frames."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import ExifTags
from PIL import Image as PillowImage

from e3sn_lib.errors import InputError
from e3sn_lib.files import IMAGE_SUFFIXES, by_number, files_by_stem, read_image, read_text
from e3sn_lib.geometry import Image
from e3sn_lib.tracking.tracker import check_frame

FRAME_RATE = Fraction(24)
"""Frames per second of a folder of images, which has no rate of its own."""
HELD_BYTES = 256_000_000
"""Memory that decoded frames may fill while a video is read backwards."""
BT709, BT601, BT2020 = 1, 5, 9
"""FFmpeg's numbers of colours: those of HD, which players expect today, of SD and of HDR."""
CONVERTED = (0, 1, 4, 5, 6, 7, 9)
"""Colours that FFmpeg can convert to RGB, where a file names them."""
RESERVED = (0, 3)
"""Numbers of primary colours that mean nothing."""
HDR = (16, 18)
"""FFmpeg's numbers of the brightness curves of HDR video: PQ, and HLG, which phones record."""
_ODD_TAGS: Any = {"metadata_errors": "replace"} if av.__version__ < "19" else {}
"""Titles may be in any encoding. PyAV 19 does not need this."""
EVERY_FRAME = range(sys.maxsize)
ADVICE = "convert it, or give a folder of images"
BROKEN_CLOCK = 1
"""Seconds. If a frame is earlier than the last one by more than this, the clock restarted."""
LONGEST_PAUSE = 6 * 3600
"""Seconds. If a frame comes later than this after the one before, the clock is wrong. MP4 can
hardly show a frame for longer."""
REORDERED = 16
"""H.264 may store a frame up to this many frames away from its place."""
TRANSPARENCY = "transparency: the colours below it are taken"
OBJECT_COLOURS = ("#00e5c8", "#ff7a59", "#ffd23f", "#be8cff", "#56b4e9", "#96dc5a")


class Frame(NamedTuple):
    """One frame of a video."""

    number: int
    """Counted over the whole video, from 0."""
    name: str
    """Name of the mask file: the image's name without suffix, or the number in five digits."""
    seconds: Fraction
    """From the start of the video's first frame to the start of this one."""
    duration: Fraction
    """Seconds."""
    image: Image
    """(H, W, 3) RGB, upright."""


@dataclass
class VideoSource:
    """A video file, or a folder of images; `open_video` makes one."""

    path: Path
    size: tuple[int, int]
    """Width and height of a frame, upright."""
    names: tuple[str, ...] = ()
    """Names of a folder's images in order; () for a file."""
    rate: Fraction = FRAME_RATE
    """Mean number of frames per second."""
    announced: int = 0
    """Number of frames, for a file from its header; 0 if the header does not count the whole file.
    An edit list may hide some of them."""
    seconds: Fraction = Fraction(0)
    """How long the pictures last, as a file says; 0 if it says nothing."""
    time_base: Fraction = 1 / FRAME_RATE
    """Seconds; the frames' times are multiples of it."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel over its height."""
    start: Fraction = Fraction(0)
    """Seconds of the first frame on the clock that a file's pictures and sound share."""
    has_sound: bool = False
    left_out: tuple[str, ...] = ()
    """The parts of the video that cannot be used, in words."""
    turn: tuple[bool, bool, bool] = (False, False, False)
    """To get a stored frame upright: whether to swap rows and columns, flip columns, flip rows."""
    damaged: bool = False
    """Whether a part was damaged so far. Its frames or sound are left out or wrong."""
    missing: tuple[str, ...] = ()
    """Where frames seem to be missing, in words; of a file once all have been read."""
    stopped: Callable[[], bool] = lambda: False
    """Called at each frame of a file, also at skipped ones; True ends the video there."""
    _converter: VideoReformatter = field(default_factory=VideoReformatter, repr=False)
    """Kept from frame to frame, because for HDR it takes seconds to start."""

    def frames(self, chosen: range = EVERY_FRAME) -> Iterator[Frame]:
        """Yield the chosen frames in order, one in memory at a time.

        `chosen` may reach beyond the end of the video. Raises InputError if an image cannot be
        read, or a frame has another size.
        """
        found = self._from_folder(chosen) if self.names else self._from_file(chosen)
        for frame in islice(found, len(chosen)):
            check_frame(frame.image, self.size[::-1], f"frame {frame.number} of {self.path}")
            yield frame

    def backwards(self, chosen: range) -> Iterator[tuple[int, Image]]:
        """Yield number and image of the chosen frames, the last one first; errors as in `frames`.
        A file is decoded in short runs, so that few frames are in memory."""
        if self.names:
            for number in reversed(chosen):
                yield number, next(self.frames(range(number, number + 1))).image
            return
        found = [frame.pts for frame in islice(_pictures(self), chosen.stop)]
        chosen = range(chosen.start, min(chosen.stop, len(found)), chosen.step)
        ticks = [tick for tick in found if tick is not None]
        if len(ticks) < len(found) or any(after <= tick for tick, after in pairwise(ticks)):
            ticks = []  # they do not tell where a frame is
        at_once = min(max(HELD_BYTES // (3 * self.size[0] * self.size[1]), 4), 64)
        for end in range(len(chosen), 0, -at_once):
            yield from reversed(self._held(chosen[max(end - at_once, 0) : end], ticks).items())

    def _from_folder(self, chosen: range) -> Iterator[Frame]:
        for number in range(len(self.names))[chosen.start : chosen.stop : chosen.step]:
            path = self.path / self.names[number]
            yield Frame(number, path.stem, number / self.rate, 1 / self.rate, read_image(path))

    def _from_file(self, chosen: range) -> Iterator[Frame]:
        seconds, shown, start = Fraction(-1), Fraction(0), self.start
        gaps, longest, number = list[int](), 2 / self.rate, -1
        for number, frame in enumerate(_pictures(self)):
            before, seconds = seconds, _seconds(frame, number / self.rate + start) - start
            leap = seconds - before
            if leap > LONGEST_PAUSE:
                jump = f"a jump of {float(leap / 3600):.0f} hours in time before frame {number}"
                self.left_out = (*dict.fromkeys([*self.left_out, jump]),)
            if leap > LONGEST_PAUSE or leap < -BROKEN_CLOCK:  # it begins anew in joined files
                start -= before + shown - seconds
                seconds = before + shown
            if seconds <= before:  # encoders need times that grow
                seconds = before + self.time_base
            if number > 1:  # the first may be shown for longer
                longest = max(longest, seconds - before)
                gaps += [number] if seconds - before > 1.5 * shown else []
            shown = frame.duration * _exact(frame.time_base or self.time_base) or 1 / self.rate
            if number in chosen:
                yield Frame(number, f"{number:05d}", seconds, shown, self._upright(frame))
        end, self.missing = seconds + shown, ()
        if 0 < len(gaps) < number / 4:  # more of them are a rate that varies
            places = f"{len(gaps)} place{'s' * (len(gaps) != 1)}"
            self.missing += (f"gaps in time at {places}, the first before frame {gaps[0]}",)
        if self.seconds - end > longest and not self.stopped():
            there = f"{float(end):.1f} s are there"
            self.missing += (f"the file announces {float(self.seconds):.1f} s, {there}",)

    def _held(self, numbers: range, ticks: list[int]) -> dict[int, Image]:
        """Decode frames, from a little before them or else the start; return them by number."""
        by_tick = {ticks[number]: number for number in numbers} if ticks else {}
        before = (REORDERED, 16 * REORDERED) if ticks else ()  # it may take long to a key frame
        for begin in [*(ticks[max(numbers[0] - each, 0)] for each in before), None]:
            held: dict[int, Image] = {}
            for place, frame in enumerate(_pictures(self, begin)):
                number = place if begin is None else by_tick.get(frame.pts or 0, -1)
                if number in numbers:
                    image = held[number] = self._upright(frame)
                    check_frame(image, self.size[::-1], f"frame {number} of {self.path}")
                if number == numbers[-1]:
                    break
            if len(held) == len(numbers):
                break
        return held

    def _upright(self, frame: av.VideoFrame) -> Image:
        # where a file does not name its colours, FFmpeg takes those of SD; players take HD's for HD
        is_hdr, is_hd = frame.color_trc in HDR, frame.width >= 1280 or frame.height > 576
        colours = BT2020 if is_hdr else BT709 if is_hd else BT601
        assumed = None if frame.colorspace in CONVERTED else colours
        as_hd = {"dst_color_trc": BT709, "dst_color_primaries": BT709}
        shown = as_hd if is_hdr and frame.color_primaries not in RESERVED else {}
        rgb = self._converter.reformat(frame, format="rgb24", src_colorspace=assumed, **shown)
        image = np.asarray(rgb.to_ndarray(), np.uint8)
        swapped, flip_columns, flip_rows = self.turn
        image = image.swapaxes(0, 1) if swapped else image
        return np.ascontiguousarray(image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def open_video(path: str | Path) -> VideoSource:
    """Return what is known of a video before its frames are read.

    It is a file, or a folder of images, which are ordered by the numbers in their names. Raises
    InputError if nothing is there, if there is no frame or the first one cannot be read, or if two
    images are of one frame.
    """
    path = Path(path)
    if os.path.isdir(path):
        return _of_folder(path)
    if os.path.isfile(path):
        return _of_file(path)
    raise InputError(f"there is no video or folder of frames at {path}")


def _of_folder(path: Path) -> VideoSource:
    names = [each.name for each in sorted(files_by_stem(path).values(), key=by_number)]
    if not names:
        raise InputError(f"folder {path} has no images ({', '.join(IMAGE_SUFFIXES)})")
    height, width, _ = read_image(path / names[0]).shape
    source = VideoSource(path, (width, height), tuple(names), announced=len(names))
    source.missing = _missing_numbers(names)
    there = {each.name for each in path.iterdir() if each.is_file() and each.name[0] != "."}
    if others := sorted(there.difference(names)):
        count = f"{len(others)} file{'s' * (len(others) != 1)} of other kinds"
        source.left_out = (f"{count} in {path}, such as {others[0]}",)
    with PillowImage.open(path / names[0]) as image:
        turned = False
        with suppress(Exception):  # damaged notes raise many kinds of error
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
        if turned and image.format != "TIFF":  # OpenCV turns that
            source.left_out += ("the rotation noted in the images (EXIF)",)
        has_alpha = image.has_transparency_data  # as many opaque images have
        if has_alpha and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            source.left_out += (TRANSPARENCY,)
    return source


def _of_file(path: Path) -> VideoSource:
    if path.suffix.lower() in (".tif", ".tiff"):
        read_image(path)  # which refuses several pages, where FFmpeg would read the first
    with open_file(path) as container:
        stream = pictures_in(container)[0]
        source = VideoSource(path, (0, 0), announced=stream.frames)
        source.rate = _exact(stream.average_rate or stream.guessed_rate) or FRAME_RATE
        source.time_base = _exact(stream.time_base) or source.time_base
        sounds = container.streams.audio
        source.has_sound = bool(sounds) and sounds[0].codec_context is not None
        if sounds and not source.has_sound:
            source.left_out = ("the sound, which FFmpeg cannot decode",)
        pictures = [each for each in pictures_in(container) if each.frames != 1]
        for kind, tracks in (("sound", sounds), ("picture", pictures)):
            if (more := len(tracks) - 1) > 0:
                source.left_out += (f"{more} more {kind} track{'s' * (more != 1)}",)
        aspect = _exact(stream.sample_aspect_ratio)
        # Matroska has this for a stream; its `duration` is then that of the whole file
        ends = _clock(stream.metadata.get("DURATION", ""))
        lasts = Fraction(0) if ends else (stream.duration or 0) * source.time_base
        if not (ends or sounds):
            ends = Fraction(container.duration or 0, av.time_base)
    frame = next(_pictures(source), None)
    if frame is None:
        raise InputError(f"{path} is a video without a frame that can be decoded; {ADVICE}")
    source.start = _seconds(frame, Fraction(0))
    has_alpha = any(each.is_alpha for each in frame.format.components)  # as every GIF has
    if has_alpha and frame.to_ndarray(format="rgba")[..., 3].min() < 255:
        source.left_out += (TRANSPARENCY,)
    if path.suffix.lower() not in IMAGE_SUFFIXES:  # an image is taken as it is stored
        source.turn = _turn(frame)
    source.seconds = lasts or max(ends - source.start, Fraction(0))
    if source.announced < 0.9 * source.seconds * source.rate:  # that of the first fragment of many
        source.announced = 0
    source.size = (frame.height, frame.width) if source.turn[0] else (frame.width, frame.height)
    if aspect:
        source.pixel_aspect = 1 / aspect if source.turn[0] else aspect
    return source


def _missing_numbers(names: Sequence[str]) -> tuple[str, ...]:
    """Return where numbers are missing in the names of images, in words, if they differ in one
    number alone; it may grow in steps."""
    kinds = {re.sub(r"\d+(?=\D*$)", "", Path(name).stem) for name in names}
    found = [re.search(r"(\d+)\D*$", Path(name).stem) for name in names]
    numbers = [int(each[1]) for each in found if each]
    steps = [after - before for before, after in pairwise(numbers)]
    places = [place for place, step in enumerate(steps, 1) if step > min(steps)]
    if len(kinds) > 1 or len(numbers) < len(names) or not 0 < len(places) < len(names) / 4:
        return ()
    count = f"{len(places)} place{'s' * (len(places) != 1)}"
    return (f"numbers are left out at {count}, the first before {names[places[0]]}",)


def read_frames(source: str | Path) -> Iterator[Image]:
    """Yield the frames of a video file or of a folder of images, one in memory at a time.

    They are (H, W, 3) RGB uint8, upright; interlaced ones are made whole. Errors are those of
    `open_video` and `VideoSource.frames`.
    """
    return (frame.image for frame in open_video(source).frames())


def open_file(path: Path) -> av.container.InputContainer:
    """Open a video file; raises InputError if FFmpeg cannot read it, or if it has no pictures. A
    playlist may name other local files, but no URL."""
    try:
        with path.open("rb") as file:
            text = read_text(path, "playlist") if file.read(7) == b"#EXTM3U" else ""
        if "#EXT-X-TARGETDURATION" in text and "#EXT-X-ENDLIST" not in text:
            # FFmpeg would take it for a live one, begin near its end, and wait for more
            raise InputError(f"playlist {path} has no end; add a line #EXT-X-ENDLIST")
        # an image named 0%d.png is that file, no pattern for others
        options = {"protocol_whitelist": "file", "pattern_type": "none"}
        # absolute, as FFmpeg takes what is before a colon for a protocol
        container = av.open(str(path.absolute()), container_options=options, **_ODD_TAGS)
    except PermissionError as error:
        raise InputError(f"cannot read video {path}: {error.strerror}") from error
    except av.FFmpegError as error:
        raise InputError(f"{path} is no video that FFmpeg can read; {ADVICE}") from error
    is_text = container.format.name == "tty"  # of which FFmpeg would draw the letters
    if is_text or not pictures_in(container):
        container.close()
        fault = f"is a text, no video; {ADVICE}" if is_text else "has no pictures, only sound"
        raise InputError(f"{path} {fault}")
    return container


def pictures_in(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Return the streams of moving pictures, without the cover image of a song; a stream of one
    picture comes last."""
    cover = Disposition.attached_pic
    found = [each for each in container.streams.video if not each.disposition & cover]
    return sorted(found, key=lambda each: each.frames == 1)


def decoded(packets: Iterator[Any], source: VideoSource) -> Iterator[Any]:
    """Yield the frames in packets; damaged ones are left out, which the source notes."""
    while True:
        try:
            packet = next(packets)
            frames = packet.decode()
        except StopIteration:
            return
        except av.FFmpegError:
            source.damaged = True
            continue
        if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
            source.damaged = True  # never set back: sound is decoded in another thread
        yield from frames


def _pictures(source: VideoSource, begin: int | None = None) -> Iterator[av.VideoFrame]:
    """Yield the frames of a file from a key frame before tick `begin` on, none if it cannot jump
    there; or from the start."""
    with open_file(source.path) as container:
        stream = pictures_in(container)[0]
        stream.thread_type = "SLICE"  # with frames side by side, marks of damage get lost
        try:
            if begin is not None:
                container.seek(begin, stream=stream)
        except av.FFmpegError:  # as in a list of files; the caller then decodes from the start
            return
        weaver, woven_size = None, (0, 0)
        for frame in decoded(container.demux(stream), source):
            if source.stopped():
                return
            if weaver is None and frame.interlaced_frame:
                weaver, woven_size = _weaver(stream), (frame.width, frame.height)
            if weaver and woven_size == (frame.width, frame.height):
                yield from _woven(weaver, frame)
            else:
                yield frame
        yield from _woven(weaver, None) if weaver else ()


def _weaver(stream: av.VideoStream) -> Graph:
    """Return the filter that joins the two half pictures of an interlaced frame."""
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(template=stream),
        graph.add("bwdif", "mode=send_frame:deint=interlaced"),
        graph.add("settb", str(stream.time_base)),  # bwdif halves it
        graph.add("buffersink"),
    ).configure()
    return graph


def _woven(graph: Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Yield the pictures that are complete after a frame; None stands for the end."""
    graph.vpush(frame)
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            picture = graph.vpull()
            if picture.pts is not None and picture.pts < -(2**61):  # bwdif doubles "no time"
                picture.pts = None
            yield picture


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return how to get a frame upright, as phones store it beside each frame. To be asked once:
    PyAV's `side_data` keeps its frame in memory until Python collects cycles."""
    try:
        notes: Any = frame.side_data
    except ValueError:  # one of the notes is of a kind that PyAV does not know
        quarters = round(frame.rotation / 90) % 4
        return quarters % 2 == 1, quarters in (2, 3), quarters in (1, 2)
    if SideData.DISPLAYMATRIX not in notes:
        return False, False, False
    stored = bytes(notes[SideData.DISPLAYMATRIX])
    right_x, right_y, _, down_x, down_y, *_ = np.frombuffer(stored, np.int32).tolist()
    if abs(right_x) >= abs(right_y):
        return False, right_x < 0, down_y < 0
    return True, down_x < 0, right_y < 0


def _seconds(frame: av.VideoFrame, otherwise: Fraction) -> Fraction:
    base = _exact(frame.time_base)
    return frame.pts * base if base and frame.pts is not None else otherwise


def _clock(text: str) -> Fraction:
    """Return the seconds of ``00:00:16.667``; 0 for another text."""
    found = re.fullmatch(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d{1,12})?)", text)
    hours, minutes, seconds = map(Fraction, found.groups() if found else (0, 0, 0))
    return 3600 * hours + 60 * minutes + seconds


def _exact(value: Any) -> Fraction:
    """Return a fraction of PyAV, which has a class of its own since 19; 0 if it is not set."""
    return Fraction(value.numerator, value.denominator) if value else Fraction(0)


def object_colour(number: int) -> tuple[int, int, int]:
    """Return the RGB colour of an object id of 1 and up; brighter than DAVIS's palette."""
    red, green, blue = bytes.fromhex(OBJECT_COLOURS[(number - 1) % len(OBJECT_COLOURS)][1:])
    return red, green, blue


def overlay(frame: Image, ids: Image, opacity: float = 0.45) -> Image:
    """Return a frame, (H, W, 3) RGB uint8, with its objects tinted and outlined. They are given by
    their ids, (H, W), where 0 is background. The opacity of the tint is 0 to 1. Raises InputError
    if frame and ids do not fit together, or if one of the three is of another kind."""
    check_frame(frame)
    ids = np.asarray(ids)
    fit = ids.shape == frame.shape[:2] and ids.dtype.kind in "bui" and 0 <= opacity <= 1
    if not fit or ids.min(initial=0) < 0 or ids.max(initial=0) > 255:
        given = f"ids are {ids.dtype} of shape {ids.shape}, opacity is {opacity}"
        rule = f"whole numbers from 0 to 255 of shape {frame.shape[:2]}, and 0 to 1"
        raise InputError(f"{given}; give {rule}")
    ids = ids.astype(np.uint8)
    shown = frame.copy()
    left, top, columns, rows = cv2.boundingRect(ids)  # of the objects; the rest stays as it is
    place = slice(top, top + rows), slice(left, left + columns)
    part, ids = frame[place], ids[place]
    width = max(round(frame.shape[1] / 600), 1)
    for number in np.unique(ids[ids > 0]):
        colour, mask = object_colour(int(number)), ids == number
        tinted = (1 - opacity) * part[mask] + opacity * np.array(colour)
        shown[place][mask] = tinted.astype(np.uint8)
        found = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, found[0], -1, colour, width, cv2.LINE_AA, offset=(left, top))
    return shown
