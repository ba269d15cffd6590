"""The one exception that means "the input is wrong, not the code"."""


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is a single line: what is wrong, where (file, frame or key), and what to do.
    The command line prints it without a traceback and exits with status 2.
    """
