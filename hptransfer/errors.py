"""The errors that end a command with a sentence, each with its exit code."""


class UserError(ValueError):
    """Something the user can fix by changing the command or a file; exit code 2.

    The message is one sentence or two: what must hold, what was given, what to do.
    """

    exit_code = 2


class MachineError(RuntimeError):
    """The machine failed: a full disk, a node lost beyond its retries; exit code 3."""

    exit_code = 3


class TrialsFailed(RuntimeError):
    """Trials raised, which is a bug; all other trials are recorded. Exit code 1."""

    exit_code = 1


class TrialFailure(RuntimeError):
    """A trial of a trainer that is not ours failed: it answered no loss.

    Args:
        reason: why, in a few words.
        frame: the place in the trainer's code, as `file:line in function`; empty if unknown.
        text: the end of the trial's log.
        is_lost: whether a signal ended every attempt, as a machine does.
    """

    def __init__(self, reason: str, frame: str, text: str, is_lost: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.frame = frame
        self.text = text
        self.is_lost = is_lost

    def __reduce__(self) -> tuple[type, tuple[str, str, str, bool]]:
        return TrialFailure, (self.reason, self.frame, self.text, self.is_lost)


class Interrupted(KeyboardInterrupt):
    """The user or the scheduler asked to stop; exit code 128 + `signal_number`."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
        self.exit_code = 143 if signal_number == 15 else 130


def abbreviate(value: object, most: int = 80) -> str:
    """Return what was given, on one line and short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def require(holds: bool, message: str) -> None:
    """Raise a `UserError` unless a condition holds."""
    if not holds:
        raise UserError(message)
