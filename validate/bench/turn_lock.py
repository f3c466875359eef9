"""One process at a time on the device: a lock that is taken before cuDNN executes a plan."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("turn_lock.c")
LIBRARY, FILE = "BENCH_TURN_LIBRARY", "BENCH_TURN"


def build(folder: Path) -> Path:
    """Compile the library into ``folder``; a built one may be named by BENCH_TURN_LIBRARY.

    Raises
    ------
    OSError
        When there is no C compiler, or it fails.
    """
    given = os.environ.get(LIBRARY)
    if given:
        return Path(given).resolve()
    out = folder / "turn_lock.so"
    command = ["cc", "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(out), "-ldl"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise OSError(f"turn_lock.c does not compile: {made.stderr.strip()[:300]}")
    return out


def environment(library: Path, lock: Path) -> dict[str, str]:
    """Variables of a process that takes turns with others of the same ``lock`` file."""
    return {"LD_PRELOAD": str(library), LIBRARY: str(library), FILE: str(lock)}


class Turn:
    """The hold of this process on the device; without the variables it always has its turn."""

    def __init__(self) -> None:
        given = os.environ.get(LIBRARY) if os.environ.get(FILE) else None
        self._library = ctypes.CDLL(given) if given else None
        if self._library is not None:
            self._library.turn_executed.restype = ctypes.c_long
            self._library.turn_waited.restype = self._library.turn_kept.restype = ctypes.c_double

    @property
    def shared(self) -> bool:
        """Whether other processes take turns with this one."""
        return self._library is not None

    def take(self) -> None:
        """Wait for the turn, unless it is held."""
        if self._library is not None and self._library.turn_take():
            raise OSError(f"cannot lock {os.environ[FILE]}")

    def release(self) -> None:
        """Give it back, if held."""
        if self._library is not None:
            self._library.turn_release()

    @property
    def executed(self) -> int:
        """Plans that cuDNN executed in this process through the library."""
        return int(self._library.turn_executed()) if self._library is not None else 0

    def seconds(self) -> tuple[float, float]:
        """Time that this process has waited for its turns, and has held the device, until now."""
        if self._library is None:
            return 0.0, 0.0
        return self._library.turn_waited(), self._library.turn_kept()
