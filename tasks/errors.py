"""The one exception for mistakes a user can make."""


class InputError(Exception):
    """Wrong usage or wrong input. The message is one clear sentence that names the file or the flag and the way out.

    The command line prints it without a traceback and exits with code 2.
    """
