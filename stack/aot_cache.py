"""An AOT cache of a JVM (JEP 514): the classes of a first run, loaded and linked, so that later starts need half the CPU.

Enters: the JVM, its jars and its flags, and a function that runs the JVM once. Leaves: a folder of the user's cache, and the options that
use it. Guaranteed: a folder fits one JVM, one set of jars and one set of flags. It is made under another name and renamed, so that two
stacks may make it at once. The JVM checks the cache and starts without one that it refuses; a refused cache is made again, once.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

UNUSED_DAYS = 30.0  # a cache of another JVM or other jars that was not used for so long is deleted
_FILE = "jvm.aot"
_WHY_NOT = "why-not.txt"  # in place of a cache that could not be made


class NotMade(Exception):
    """There is no cache and none can be made now; one sentence says why. The JVM starts without it."""


def key(java_home: Path, jars: Sequence[Path], flags: Sequence[str]) -> str:
    """A digest of everything a cache depends on: a cache that the JVM would refuse has another key."""
    parts = [(java_home / "release").read_text(encoding="utf-8"), *flags]
    parts += [f"{file} {_stamp(file)}" for file in jars]
    parts += [_stamp(java_home / "lib" / "modules")]  # without its path, which does not matter
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def is_usable(folder: Path) -> bool:
    return (folder / _FILE).is_file()


def is_finished(folder: Path) -> bool:
    """Whether there is nothing left to do: the folder has a cache, or the reason why there is none."""
    return is_usable(folder) or (folder / _WHY_NOT).is_file()


def options(folder: Path, log: Path) -> list[str]:
    """The options with which a JVM uses the cache. Afterwards, `was_refused` reads `log`."""
    os.utime(folder)  # marks it as used
    return [
        f"-XX:AOTCache={folder / _FILE}",
        # A damaged cache would crash the JVM; checking it takes 0.05 s.
        "-XX:+UnlockDiagnosticVMOptions",
        "-XX:+VerifySharedSpaces",
        "-Xlog:aot*=off",
        f"-Xlog:aot*=error:file={log}:none:filecount=0",
    ]


def was_refused(log: Path) -> bool:
    """Whether the JVM with that `log` refused the cache and started without it."""
    try:
        return log.stat().st_size > 0
    except OSError:
        return False


def make(folder: Path, train: Callable[[Path, list[str]], None]) -> None:
    """Makes the cache. `train` gets a new folder and the options for its JVM, and must end that JVM in good order; other files that it
    leaves in the folder stay there. Blocks as long as `train`. Raises NotMade; then the reason is stored and later starts do not try
    again."""
    staging = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise NotMade(f"{staging} cannot be written ({error})") from error
    try:
        why_not = _try(train, staging)
        if why_not:
            (staging / _FILE).unlink(missing_ok=True)
            (staging / _WHY_NOT).write_text(f"{why_not}\n", encoding="utf-8")
        _publish(staging, folder)
    finally:  # an interrupted run leaves nothing
        shutil.rmtree(staging, ignore_errors=True)
    _clear(folder)
    if why_not:
        raise NotMade(f"{why_not}; delete {folder} to try again")


def discard(folder: Path) -> None:
    """Discards a cache that the JVM refused; the next start makes it again. If the JVM refuses that one as well, later starts do
    without."""
    if not is_usable(folder):  # another stack has discarded it
        return
    refused = folder.with_name(f"{folder.name}.refused")
    if refused.exists():
        (folder / _WHY_NOT).write_text("the JVM refused it twice\n", encoding="utf-8")
        (folder / _FILE).unlink(missing_ok=True)
        return
    try:
        folder.rename(refused)
    except OSError:  # another stack was first
        return
    (refused / _FILE).unlink(missing_ok=True)


def _try(train: Callable[[Path, list[str]], None], staging: Path) -> str:
    """Runs `train`. Returns why there is no cache, or "" when there is one."""
    try:
        train(staging, [f"-XX:AOTCacheOutput={staging / _FILE}"])
    except Exception as error:  # noqa: BLE001  # no error of a training run may stop the stack
        return str(error) or type(error).__name__
    return "" if is_usable(staging) else "the JVM wrote no cache"


def _publish(staging: Path, folder: Path) -> None:
    """Renames the finished folder to its final name, unless another stack was faster."""
    for file in staging.iterdir():
        if file.is_file():
            _sync(file)  # otherwise a power cut could leave the name without the content
    try:
        staging.rename(folder)
    except OSError:
        if not folder.exists():
            raise


def _clear(folder: Path) -> None:
    family = folder.name.rpartition("-")[0]
    for other in folder.parent.glob(f"{family}-*"):
        if other != folder and time.time() - other.stat().st_mtime > UNUSED_DAYS * 86_400:
            shutil.rmtree(other, ignore_errors=True)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamp(file: Path) -> str:
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns}"
