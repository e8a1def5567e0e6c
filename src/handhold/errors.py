"""The errors a user of handhold can meet. Every message names the file or field, what was found and
what was expected."""


class HandholdError(Exception):
    """Base of every error raised on purpose; the command line prints it as one line, without a
    traceback."""


class InputError(HandholdError, ValueError):
    """A value, field or option given by the caller cannot be used."""


class FileFormatError(HandholdError, ValueError):
    """A file exists but does not hold what its name or place promises."""


class MissingFileError(HandholdError, FileNotFoundError):
    """A file or folder that is needed does not exist."""

    def __str__(self) -> str:  # FileNotFoundError would print only errno and name
        return str(self.args[0]) if self.args else ""


class WriteError(HandholdError, OSError):
    """A file cannot be written: the disk is full, a quota is reached, the folder is closed to us.

    Made like an OSError, of error number, reason and file; finished files stay as they are.
    """

    def __str__(self) -> str:
        return f"{self.filename}: cannot be written ({self.strerror}); what was finished is kept"


class MissingExtraError(HandholdError, ImportError):
    """An optional dependency is needed; the message says which extra installs it."""


class WeightsError(HandholdError, ValueError):
    """A checkpoint does not fit the network: keys, shapes or values are not as expected."""


class TrainingError(HandholdError, RuntimeError):
    """Training cannot go on (for example: the loss became NaN)."""
