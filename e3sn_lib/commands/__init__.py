"""What each command of ``e3sn`` does: functions of parsed options that return an exit status."""

import argparse
import os


def data_root(options: argparse.Namespace) -> str:
    """The folder of the data sets: ``--data``, else the environment's, else "", which leaves it to the profile."""
    return options.data or os.environ.get("E3SN_DATA", "")
