"""The process between hptransfer and a trial's command: it ends the command with all its children.

It runs as a program of its own: `python -IS supervise.py GRACE LOCK COMMAND...`. While it runs,
only this process has the trial's folder: it holds a lock on the file LOCK. When its standard input
is closed, which also happens where the process that started it is killed, the command's process
group gets SIGTERM, and SIGKILL after GRACE seconds. It ends as the command ends: with its exit
code, or by its signal.

Only the standard library's fast modules are imported, since this program starts with every trial.
"""

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time

NOT_STARTED = 127  # the command could not be started
LOCKED = 126  # another process still has the trial's folder
LOCK_SECONDS = 60.0  # that another process may still take to end
POLL_SECONDS = 0.02


def main() -> int:
    grace, lock, command = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the process that started this one decides
    if not locked(lock, LOCK_SECONDS + grace):
        return LOCKED
    try:
        child = os.fork()
        if child == 0:
            become(command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return NOT_STARTED
    threading.Thread(target=end_at_end_of_input, args=(child, grace), daemon=True).start()
    _, status = os.waitpid(child, 0)
    end_group(child, signal.SIGKILL)  # what the command has left behind
    code = os.waitstatus_to_exitcode(status)
    if code < 0:  # end by the same signal
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


def locked(path: str, seconds: float) -> bool:
    """Take the lock, for which an earlier attempt that is just ending is waited for."""
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    os.set_inheritable(file, False)
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(POLL_SECONDS)
        except OSError:
            return True  # a file system without locks


def become(command: list) -> None:
    """Turn this process into the command, with a group of its own and default signals."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(NOT_STARTED)


def end_at_end_of_input(child: int, grace: float) -> None:
    while os.read(0, 4096):
        pass
    end_group(child, signal.SIGTERM)
    time.sleep(grace)
    end_group(child, signal.SIGKILL)


def end_group(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, number)


if __name__ == "__main__":
    sys.exit(main())
