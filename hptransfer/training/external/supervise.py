"""The processes between hptransfer and a trial's command: they end the command with all it started.

It runs as a program of its own: `python -IS supervise.py GRACE LOCK_SECONDS STATUS FOLDER
COMMAND...`. The program is two processes. The first one waits for the second, the supervisor, which
has a session of its own, so that whatever kills the children of the process that runs the trial (as
Ray does) does not reach it. While the supervisor runs, only it has the trial's folder, by a lock on
a file there.

When the standard input is closed, which also happens where the process that runs the trial is
killed, the command's process group gets SIGTERM, and SIGKILL after GRACE seconds. Whatever the
command has left behind when it ends is killed, in whichever process group it is. The program ends
as the command ends: with its exit code, or by its signal. Where the command never ran, the file
descriptor STATUS gets a line that says why.

Only the standard library's fast modules are imported, since this program starts with every trial.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading
import time

LOCKED = "locked"  # the line where another process still has the trial's folder
NOT_STARTED = 127  # the exit code where the command could not be started
POLL_SECONDS = 0.02
MOST_SECONDS = 10.0  # that killed processes may take to be gone
LOCK_FILE = ".running"
RESULT_FILE = "result.json"
# What a function that could not be called or that raised leaves for the message about it.
FAILURE_FILE = "failure.json"
# Of Linux's prctl.
DIE_WITH_PARENT, DUMPABLE, ADOPT_ORPHANS = 1, 4, 36


def main() -> int:
    grace, lock_seconds, status = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    folder, command = sys.argv[4], sys.argv[5:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the process that started this one decides
    control(ADOPT_ORPHANS, 1)
    supervisor = os.fork()
    if supervisor == 0:
        os.setsid()
        control(ADOPT_ORPHANS, 1)
        code = supervise(grace, lock_seconds, status, folder, command)
    else:
        os.close(status)
        code = os.waitstatus_to_exitcode(os.waitpid(supervisor, 0)[1])
    kill_children()
    return ended_like(code)


def control(*words: int) -> None:
    """Ask Linux for a property of this process; other systems have none of them."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(*words, 0, 0, 0)


def supervise(grace: float, lock_seconds: float, status: int, folder: str, command: list) -> int:
    """Run the command in a trial's folder and return its exit code."""
    os.set_inheritable(status, False)
    if not locked(folder + "/" + LOCK_FILE, lock_seconds):
        os.write(status, LOCKED.encode())
        return NOT_STARTED
    for name in (RESULT_FILE, FAILURE_FILE):  # of an earlier attempt
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder + "/" + name)
    child = os.fork()
    if child == 0:
        become(command, status)
    os.close(status)
    threading.Thread(target=end_at_end_of_input, args=(child, grace), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end_group(child, signal.SIGKILL)  # what the command has left behind
    return code


def locked(path: str, seconds: float) -> bool:
    """Take the lock, for which an earlier attempt that is just ending is waited for."""
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
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


def become(command: list, status: int) -> None:
    """Turn this process into the command, with a group of its own and default signals."""
    try:
        control(DIE_WITH_PARENT, signal.SIGKILL)
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(status, str(error.strerror).encode())
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


def kill_children() -> None:
    """Kill this process's children until none is left; orphans of killed ones become children."""
    until = time.monotonic() + MOST_SECONDS
    while time.monotonic() < until:
        try:
            if os.waitpid(-1, os.WNOHANG) != (0, 0):
                continue
        except ChildProcessError:
            return
        for child in children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def children() -> list:
    """Return the process ids of this process's children."""
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                # The name, in parentheses, may hold anything; then come the state and the parent.
                if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(entry))
    return found


def ended_like(code: int) -> int:
    """Return an exit code, or end this process by the signal that a negative one names."""
    if code < 0:
        control(DUMPABLE, 0)  # the command has written its core already
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
