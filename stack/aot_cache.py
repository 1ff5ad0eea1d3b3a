"""An AOT cache of a JVM (JEP 514): the classes of a first run, loaded and linked, so that later starts cost half the CPU.

Enters: the JVM, its jars and its flags, and a run that trains it. Leaves: a folder of the user's cache, and the options that use it.
Guaranteed: a folder fits one JVM, one set of jars and one set of flags; it is made beside and renamed, so two that make it at once
are in nobody's way; the JVM itself checks what it maps and starts without a cache it refuses; such a cache is made anew, once.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

UNUSED_DAYS = 30.0  # after them a cache of another JVM or other jars is deleted
_FILE = "jvm.aot"
_WHY_NOT = "why-not.txt"  # in place of a cache that could not be made


class NotMade(Exception):
    """There is no cache and none can be made now; one sentence says why. Starts work without."""


def key(java_home: Path, jars: Sequence[Path], flags: Sequence[str]) -> str:
    """Names all a cache depends on: what a JVM would refuse has another key."""
    told = [(java_home / "release").read_text(encoding="utf-8"), *flags]
    told += [f"{file} {_stamp(file)}" for file in jars]
    told += [_stamp(java_home / "lib" / "modules")]  # wherever this one lies
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def is_usable(folder: Path) -> bool:
    return (folder / _FILE).is_file()


def is_finished(folder: Path) -> bool:
    """Whether there is nothing to make: a cache is there, or the reason why none can be."""
    return is_usable(folder) or (folder / _WHY_NOT).is_file()


def options(folder: Path, log: Path) -> list[str]:
    """What makes a JVM use the cache; `log` says afterwards whether it did, see `was_refused`."""
    os.utime(folder)  # it is in use
    return [
        f"-XX:AOTCache={folder / _FILE}",
        # A damaged cache would crash the JVM; its checksums cost 0.05 s.
        "-XX:+UnlockDiagnosticVMOptions",
        "-XX:+VerifySharedSpaces",
        "-Xlog:aot*=off",
        f"-Xlog:aot*=error:file={log}:none:filecount=0",
    ]


def was_refused(log: Path) -> bool:
    """Whether the JVM that was given `log` started without the cache."""
    try:
        return log.stat().st_size > 0
    except OSError:
        return False


def make(folder: Path, train: Callable[[Path, list[str]], None]) -> None:
    """Makes the cache: `train` gets a folder of its own and the options its JVM needs, and ends that JVM in good order; what it leaves
    in the folder stays beside the cache. Raises NotMade; then the reason is kept, and nobody tries again."""
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
    finally:  # whoever is interrupted leaves nothing
        shutil.rmtree(staging, ignore_errors=True)
    _clear(folder)
    if why_not:
        raise NotMade(f"{why_not}; delete {folder} to have it tried again")


def discard(folder: Path) -> None:
    """For a cache the JVM refused: the next start makes it anew. When that one is refused as well, starts go on without."""
    if not is_usable(folder):  # another stack found the same
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
    """Why there is no cache afterwards; empty when there is one."""
    try:
        train(staging, [f"-XX:AOTCacheOutput={staging / _FILE}"])
    except Exception as error:  # noqa: BLE001  # nothing a training run meets may stop the stack
        return str(error) or type(error).__name__
    return "" if is_usable(staging) else "the JVM wrote none"


def _publish(staging: Path, folder: Path) -> None:
    """Gives the finished folder its name, unless somebody else was quicker."""
    for file in staging.iterdir():
        if file.is_file():
            _sync(file)  # else a power cut could leave the name without the content
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
