"""Operations for test_workers; they run in a worker process."""

import os
import signal
import time


def echo(value):
    return value


def open_missing():
    raise FileNotFoundError(2, "No such file or directory", "/nowhere")


def fail():
    raise ValueError("no")


def hang():
    time.sleep(600)


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


OPERATIONS = {
    "echo": echo,
    "open_missing": open_missing,
    "fail": fail,
    "hang": hang,
    "hang_deaf": hang,
    "pid": os.getpid,
    "pid_after": pid_after,
    "kill_self": kill_self,
}
