"""How commands end early, told apart by type."""


class WorkFailedError(Exception):
    """The command did what it could, and that was not enough: exit code 1."""


class StopRequestedError(Exception):
    """Somebody asked the sweep to stop before its first trial began."""
