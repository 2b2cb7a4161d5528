"""Errors that a user can act on: the programs print their message without a traceback."""


class SpinesegError(Exception):
    """Something the user can mend; the message says what was found, what was expected and what to do next."""


class DataError(SpinesegError):
    """A scan, a mask or a data set is missing, damaged or not what its source promises."""


class ConfigError(SpinesegError):
    """A key, a value or a combination of them in the configuration cannot be right."""


class FormatError(SpinesegError):
    """A file of ours has a format or version that this program does not read."""
