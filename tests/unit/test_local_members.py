"""The roll of workers on one machine: who is dead, and who only stands still, as the kernel knows it."""

import signal
import subprocess
import sys
from pathlib import Path

from pipelines.engine.local_members import LocalMembers

SIGNER = """
import sys, time
from pathlib import Path
from pipelines.engine.local_members import LocalMembers
roll = LocalMembers(Path(sys.argv[1]))
for member_id in sys.argv[2:]:
    roll.enter(member_id)
print("entered", flush=True)
time.sleep(600)
"""


def signer(folder: Path, *member_ids: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SIGNER, str(folder), *member_ids], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "entered\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_only_who_has_no_process_is_dead(tmp_path: Path) -> None:
    local_members = LocalMembers(tmp_path)
    assert list(local_members.crashed()) == []
    local_members.enter("me")
    process = signer(tmp_path, "first-id", "the-id-since")
    try:
        assert list(local_members.crashed()) == []
        process.send_signal(signal.SIGSTOP)  # as dead to the group as any, and yet it may come back
        assert list(local_members.crashed()) == []
    finally:
        end(process)
    assert list(local_members.crashed()) == ["the-id-since"]
    assert list(local_members.crashed()) == []  # told once


def test_a_death_that_could_not_be_told_comes_again_and_nobody_else_tells_it_meanwhile(tmp_path: Path) -> None:
    for member_id in ("one", "two"):
        end(signer(tmp_path, member_id))
    local_members, other = LocalMembers(tmp_path), LocalMembers(tmp_path)
    telling = local_members.crashed()
    first = next(telling)
    assert list(other.crashed()) == [{"one": "two", "two": "one"}[first]]
    telling.close()  # what went wrong while it was told
    assert list(local_members.crashed()) == [first]


def test_who_leaves_by_itself_is_not_told(tmp_path: Path) -> None:
    local_members = LocalMembers(tmp_path)
    local_members.enter("me")
    local_members.leave()
    local_members.leave()
    assert list(LocalMembers(tmp_path).crashed()) == []
    local_members.enter("me again")
    assert list(tmp_path.glob("*.new")) == []
    assert [path.read_text() for path in tmp_path.glob("*.member")] == ["me again"]


def test_without_a_folder_there_is_no_roll_and_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    local_members = LocalMembers(tmp_path / "file" / "members")
    local_members.enter("me")
    local_members.enter("me")
    assert list(local_members.crashed()) == []
    local_members.leave()
