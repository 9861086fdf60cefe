"""The one exception that means "what you supplied cannot work"."""


class UserError(ValueError):
    """A problem in the user's configuration, data or files.

    The message says what is wrong, where (file, id or config key) and what to do about it. The
    tools print it alone, without a traceback, and exit with status 1.
    """

    def __init__(self, message: str):
        # A data loader raises its worker's error anew with the worker's traceback in the message.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].rstrip())
