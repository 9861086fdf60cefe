"""The one exception that means "what you supplied cannot work"."""


class UserError(ValueError):
    """A problem in the user's configuration, data or files.

    The message says what is wrong, where (file, id or config key) and what to do about it. The
    tools print it alone, without a traceback, and exit with status 1.
    """
