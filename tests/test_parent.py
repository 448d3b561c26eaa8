"""A child process ends when its parent is killed, and not before."""

from __future__ import annotations

import subprocess
import sys
import time

from ozone.parent import TiedProcess

CHILD = """
import time
from ozone.parent import end_with_parent
end_with_parent()
print(1, flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
from ozone.parent import TiedProcess
child = TiedProcess([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def ended(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not ended(child, 0.2)
        parent.kill()
        assert ended(child)


def test_a_child_lives_as_long_as_its_parent_holds_it() -> None:
    with TiedProcess([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert child.poll() is None
        child.kill()


def test_a_program_that_nobody_tied_goes_on() -> None:
    program = "from ozone.parent import end_with_parent; end_with_parent(); print('done')"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "done\n"
