"""Figures, drawn from files of record and from frames.

Nothing here opens a window, and nothing knows where a figure is kept.
"""
