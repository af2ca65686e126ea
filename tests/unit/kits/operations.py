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


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


OPERATIONS = {
    "echo": echo,
    "open_missing": open_missing,
    "fail": fail,
    "hang": hang,
    "hang_deaf": hang,
    "pid": os.getpid,
    "kill_self": kill_self,
}
