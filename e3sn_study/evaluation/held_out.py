"""Score a model on held-out data: videos, and still images with look-alikes.

Videos show how good the masks are. Images show whether the model follows the boxed object.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from e3sn_lib.config import DataConfig, Profile
from e3sn_lib.data.sources import open_held_out, open_held_out_stills
from e3sn_lib.errors import InputError
from e3sn_lib.files import read_text
from e3sn_lib.model.device import best_device
from e3sn_lib.model.network import E3SN, build_model
from e3sn_lib.model.weights import load_model, pairs_seen, read_metadata
from e3sn_lib.profiles.identity import content_hash
from e3sn_lib.profiles.loading import parse_yaml, profile_from_dict
from e3sn_lib.tracking.tracker import Tracker
from e3sn_lib.training.state import CHECKPOINT, FINAL, RunState, damage_of, read_checkpoint
from e3sn_study.evaluation.benchmark import evaluate_tracker
from e3sn_study.evaluation.diagnosis import look_alikes_taken


def score_held_out(source: Path, data: DataConfig) -> dict[str, Any]:
    """Score a model on the sequences and images that `data` holds out.

    The source is a trained model; or the folder of a run, of which the newest weights are scored.
    Return a row of record: digest of the weights, run, pairs seen, J and F mean (0 to 1), number
    of scenes, and the share of them in which a look-alike is taken, see `look_alikes_taken`. Raises
    InputError if there is no such model, or nothing is held out, or its data are absent.
    """
    run, digest, pairs, model, profile = _open(source)
    tracker = Tracker(model, profile.track)
    videos = [video for videos, _ in open_held_out(data) for video in videos]
    stills = open_held_out_stills(data)  # before the minutes of tracking
    with TemporaryDirectory() as folder:
        scores, _ = evaluate_tracker(tracker, videos, Path(folder), extras=False)
    scenes = look_alikes_taken(model, stills, profile.track)
    return {
        "model": digest,
        "run": run,
        "pairs": pairs,
        **scores[["J-Mean", "F-Mean"]].mean(),
        "scenes": len(scenes),
        **scenes[["raw_over", "penalised_over"]].mean(),
    }


def _open(source: Path) -> tuple[str, str, int, E3SN, Profile]:
    """Return run, digest, pairs seen, network and settings of a model."""
    path = source / FINAL if source.is_dir() else source
    if path.is_file() or not source.is_dir():
        model, profile = load_model(path)
        run = read_metadata(path).get("run", source.name)
        return run, content_hash(path), pairs_seen(path), model, profile
    settings = source / "config.yaml"
    profile = profile_from_dict(parse_yaml(read_text(settings), str(settings)))
    content = read_checkpoint(source, profile)
    if content is None:
        raise InputError(f"{source} has neither {FINAL} nor {CHECKPOINT}; train it first")
    model = build_model(profile.model).to(best_device()).eval()
    with damage_of(source):
        saved = content["average"] or content["model"]  # names of the average begin with "module."
        weights = {key.removeprefix("module."): value for key, value in saved.items()}
        weights.pop("n_averaged", None)
        model.load_state_dict(weights)
        state = RunState(**content["state"])
    pairs = state.pairs_before + state.step * profile.train.batch_size
    return source.resolve().name, content_hash(source / CHECKPOINT), pairs, model, profile
