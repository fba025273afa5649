"""Errors that are the user's to mend: one clear message, no traceback."""


class UserError(Exception):
    """Something outside the program is wrong; the message names it and the way out."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, unsafe, or of another model."""


class Preempted(Exception):
    """The run was asked to end, and has written all that it needs to go on."""
