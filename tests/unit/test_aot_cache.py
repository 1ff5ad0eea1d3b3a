"""The AOT cache of Kafka's JVM: its key, how it is made, and what happens to a refused one."""

import os
import time
from pathlib import Path

import pytest

from stack import aot_cache
from stack.aot_cache import NotMade


@pytest.fixture
def java_home(tmp_path: Path) -> Path:
    home = tmp_path / "java"
    (home / "lib").mkdir(parents=True)
    (home / "release").write_text('JAVA_VERSION="25"')
    (home / "lib" / "modules").write_bytes(b"modules")
    return home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "kafka-aot-0123"


def trained(staging: Path, options: list[str]) -> None:
    """Acts as a JVM that ends in good order: writes the file that its options name."""
    (option,) = options
    Path(option.removeprefix("-XX:AOTCacheOutput=")).write_bytes(b"cache")
    (staging / "bootstrap.checkpoint").write_bytes(b"beside it")


def test_another_jvm_other_jars_and_other_flags_have_another_cache(java_home: Path, tmp_path: Path) -> None:
    jar = tmp_path / "kafka.jar"
    jar.write_bytes(b"jar")
    flags = ["-XX:+UseSerialGC"]
    first = aot_cache.key(java_home, [jar], flags)
    assert aot_cache.key(java_home, [jar], flags) == first
    keys = [first, aot_cache.key(java_home, [jar], ["-XX:+UseG1GC"])]
    os.utime(jar, ns=(1, 1))
    keys.append(aot_cache.key(java_home, [jar], flags))
    (java_home / "release").write_text('JAVA_VERSION="26"')
    keys.append(aot_cache.key(java_home, [jar], flags))
    (java_home / "lib" / "modules").write_bytes(b"other modules")
    keys.append(aot_cache.key(java_home, [jar], flags))
    assert len(set(keys)) == len(keys)


def test_a_cache_is_made_beside_and_renamed(folder: Path) -> None:
    def look(staging: Path, options: list[str]) -> None:
        assert staging != folder
        assert not folder.exists()
        trained(staging, options)

    aot_cache.make(folder, look)
    assert aot_cache.is_usable(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["bootstrap.checkpoint", "jvm.aot"]
    assert list(folder.parent.iterdir()) == [folder]
    log = folder.parent / "aot.log"
    assert f"-XX:AOTCache={folder / 'jvm.aot'}" in aot_cache.options(folder, log)
    assert not aot_cache.was_refused(log)
    log.write_text("Unable to map shared spaces")
    assert aot_cache.was_refused(log)


def test_whoever_is_second_takes_the_first_ones(folder: Path) -> None:
    def slowly(staging: Path, options: list[str]) -> None:
        folder.mkdir()
        (folder / "jvm.aot").write_bytes(b"the first one's")
        trained(staging, options)

    aot_cache.make(folder, slowly)
    assert (folder / "jvm.aot").read_bytes() == b"the first one's"
    assert list(folder.parent.iterdir()) == [folder]


def test_an_interrupted_run_leaves_nothing(folder: Path) -> None:
    def interrupted(staging: Path, options: list[str]) -> None:
        trained(staging, options)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aot_cache.make(folder, interrupted)
    assert list(folder.parent.iterdir()) == []


def test_what_cannot_be_made_is_not_tried_at_every_start(folder: Path) -> None:
    def dies(staging: Path, options: list[str]) -> None:  # noqa: ARG001  # the signature of a training run
        (staging / "jvm.aot").write_bytes(b"half")
        raise OSError("no space left on device")

    with pytest.raises(NotMade, match=f"no space left on device; delete {folder} to try again"):
        aot_cache.make(folder, dies)
    assert aot_cache.is_finished(folder)
    assert not aot_cache.is_usable(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_jvm_that_writes_none_is_told(folder: Path) -> None:
    with pytest.raises(NotMade, match="the JVM wrote no cache"):
        aot_cache.make(folder, lambda _staging, _options: None)


def test_a_folder_nobody_may_write_is_told(folder: Path) -> None:
    folder.parent.write_bytes(b"a file")
    with pytest.raises(NotMade, match="cannot be written"):
        aot_cache.make(folder, trained)


def test_a_refused_cache_is_made_anew_once(folder: Path) -> None:
    aot_cache.make(folder, trained)
    aot_cache.discard(folder)
    aot_cache.discard(folder)  # another stack does the same
    assert not aot_cache.is_finished(folder)
    aot_cache.make(folder, trained)
    assert aot_cache.is_usable(folder)
    aot_cache.discard(folder)
    assert aot_cache.is_finished(folder)
    assert not aot_cache.is_usable(folder)


def test_caches_nobody_used_for_long_are_deleted(folder: Path) -> None:
    for name, days in (("kafka-aot-old", 31), ("kafka-aot-young", 29), ("kafka-4.1.1", 900)):
        (folder.parent / name).mkdir(parents=True)
        then = time.time() - days * 86_400
        os.utime(folder.parent / name, (then, then))
    aot_cache.make(folder, trained)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["kafka-4.1.1", "kafka-aot-0123", "kafka-aot-young"]
