"""A reader such as `head` may close the pipe early: the command then ends quietly, with the status that SIGPIPE gives."""

import signal
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "mechdiff", "compare", "--a", "demo-cultural", "--b", "demo-cognitive"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (128 + signal.SIGPIPE, b"")
