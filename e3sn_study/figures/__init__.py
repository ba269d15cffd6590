"""Figures, drawn from files of record and from frames.

Nothing here opens a window, and nothing knows where a figure is kept.
"""

from e3sn_study.figures.curves import certainty as certainty
from e3sn_study.figures.curves import level_weights as level_weights
from e3sn_study.figures.curves import precision_curves as precision_curves
from e3sn_study.figures.curves import sampling_cost as sampling_cost
from e3sn_study.figures.curves import stage_times as stage_times
from e3sn_study.figures.curves import throughput as throughput
from e3sn_study.figures.curves import training_curves as training_curves
from e3sn_study.figures.photographs import Row as Row
from e3sn_study.figures.photographs import benchmark_overview as benchmark_overview
from e3sn_study.figures.photographs import boxed_frame as boxed_frame
from e3sn_study.figures.photographs import level_maps as level_maps
from e3sn_study.figures.photographs import pair_grid as pair_grid
from e3sn_study.figures.photographs import training_examples as training_examples
from e3sn_study.figures.photographs import video_rows as video_rows
from e3sn_study.figures.scores import gains as gains
from e3sn_study.figures.scores import ladder as ladder
from e3sn_study.figures.scores import over_time as over_time
from e3sn_study.figures.scores import per_sequence as per_sequence
from e3sn_study.figures.scores import reliability as reliability
from e3sn_study.figures.scores import seen_pairs as seen_pairs
from e3sn_study.figures.scores import thresholds as thresholds
from e3sn_study.figures.scores import trade_off as trade_off
from e3sn_study.figures.style import save_figure as save_figure
from e3sn_study.figures.windows import positives_per_image as positives_per_image
from e3sn_study.figures.windows import sample_matrix as sample_matrix
from e3sn_study.figures.windows import sampled_windows as sampled_windows
