"""Figures, drawn from files of record and from frames. Nothing here opens a window."""
