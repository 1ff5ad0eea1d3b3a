"""Jars: exactly those of a lock file, each with the SHA-512 in that file. Kafka's are in stack/kafka_jars.txt.

Enters: the folder of the jars. Leaves: their paths. Guaranteed: this process has read and compared every returned jar, whether it was
downloaded now or was in the cache. An extra, changed or missing jar is never run: the folder is replaced from Maven Central, once; if the
jars are wrong even then, ServiceFailed is raised. `python -m tools.lock_jars` writes the lock file.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stack.launch import ServiceFailed

LOCK = Path(__file__).with_suffix(".txt")
DOWNLOADS = 4  # at the same time
REPOSITORIES: dict[str, str] | None = None  # name -> URL; None is Maven Central
Say = Callable[[str], None]


@dataclass(frozen=True)
class Jar:
    """One line of a lock file: `group:artifact:version` and the digest of its file."""

    sha512: str
    coordinate: str

    @property
    def name(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


@cache
def locked(lock: Path = LOCK) -> tuple[Jar, ...]:
    lines = lock.read_text(encoding="ascii").splitlines()
    return tuple(Jar(*line.split()) for line in lines if line and not line.startswith("#"))


@cache
def digest() -> str:
    """A short digest of Kafka's lock. Jars of another lock are in another folder, so that two releases do not replace each other's jars."""
    return hashlib.sha256("\n".join(f"{jar.sha512} {jar.coordinate}" for jar in locked()).encode()).hexdigest()[:8]


_checked: set[Path] = set()  # folders whose jars this process has compared


def ready(folder: Path, say: Say = lambda _: None, jars: Sequence[Jar] = ()) -> list[Path]:
    """The paths of the jars in `folder` (Kafka's, unless `jars` names others), all compared. Downloads what is missing or wrong, which
    blocks for seconds to a minute; `say` gets a line then. Raises ServiceFailed."""
    jars = jars or locked()
    if folder not in _checked:
        bad = wrong(folder, jars)
        if bad and folder.exists():
            say(
                f"the jars in {folder} are not those of their lock: {', '.join(sorted(bad))}; they are downloaded again"
            )
        if bad:
            _replace(folder, jars, bad)
        _checked.add(folder)
    return [folder / jar.name for jar in sorted(jars, key=lambda jar: jar.name)]


def wrong(folder: Path, jars: Iterable[Jar]) -> dict[str, str]:
    """The jars that differ from the lock, name -> why: missing, another SHA-512, or not in the lock."""
    expected = {jar.name: jar for jar in jars}
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    found = dict.fromkeys(sorted(present - expected.keys()), "does not belong there")
    found |= dict.fromkeys(sorted(expected.keys() - present), "is missing")
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # hashing releases the GIL
        names = sorted(present & expected.keys())
        for name, sha512 in zip(names, threads.map(lambda name: _sha512(folder / name), names), strict=True):
            if sha512 != expected[name].sha512:
                found[name] = "has another SHA-512"
    return found


def _sha512(file: Path) -> str:
    if file.is_symlink() or not file.is_file():
        return "no file"
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha512").hexdigest()


def _replace(folder: Path, wanted: Iterable[Jar], bad: Iterable[str]) -> None:
    """Replaces the folder by a complete set: copies the good jars, downloads the others, and compares all."""
    staging = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        jars = staging / "jars"
        jars.mkdir(parents=True)
        for jar in wanted:
            if jar.name not in bad:
                shutil.copyfile(folder / jar.name, jars / jar.name)
        _download([jar for jar in wanted if jar.name in bad], jars, staging / "repository")
        for each in (jars, *jars.iterdir()):
            each.chmod(0o755 if each == jars else 0o644)  # not secret; Kafka may run as another user
        still = wrong(jars, wanted)
        if still:
            differences = ", ".join(f"{name} {why}" for name, why in still.items())
            raise ServiceFailed(
                f"kafka: the jars from Maven Central are not those of the lock: {differences}; none was run"
            )
        _publish(jars, folder, wanted)
    except OSError as error:
        raise ServiceFailed(f"kafka: cannot keep jars in {folder} ({error})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(jars: Path, folder: Path, wanted: Iterable[Jar]) -> None:
    """Renames the new set to its final name. A running Kafka keeps the files it has open; another first run may have been faster."""
    old = folder.with_name(f"{folder.name}.{os.getpid()}.old")
    try:
        if folder.exists():
            folder.rename(old)
        jars.rename(folder)
    except OSError:
        if wrong(folder, wanted):
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _download(jars: list[Jar], into: Path, repository: Path) -> None:
    """Downloads each file by its own coordinate, without the dependencies in its POM."""
    if not jars:
        return
    from jgo.maven import MavenContext  # noqa: PLC0415  # takes 0.3 s, and is needed once per machine

    context = MavenContext(repo_cache=repository, local_repos=[], remote_repos=REPOSITORIES, timeout=60)

    def fetch(jar: Jar) -> None:
        shutil.copyfile(context.create_dependency(jar.coordinate).artifact.resolve(), into / jar.name)

    try:
        with ThreadPoolExecutor(DOWNLOADS) as threads:
            list(threads.map(fetch, jars))
    except Exception as error:
        raise ServiceFailed(f"kafka: cannot download jars from Maven Central to {into.parent} ({error})") from error
