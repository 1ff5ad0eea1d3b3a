"""The workers of one machine: which have crashed, and which are only frozen."""

import signal
import subprocess
import sys
from pathlib import Path

from pipelines.engine.local_members import LocalMembers

SIGNER = """
import sys, time
from pathlib import Path
from pipelines.engine.local_members import LocalMembers
members = LocalMembers(Path(sys.argv[1]))
for member_id in sys.argv[2:]:
    members.enter(member_id)
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


def test_only_a_worker_without_a_process_counts_as_crashed(tmp_path: Path) -> None:
    local_members = LocalMembers(tmp_path)
    assert list(local_members.crashed()) == []
    local_members.enter("me")
    process = signer(tmp_path, "first-id", "the-id-since")
    try:
        assert list(local_members.crashed()) == []
        process.send_signal(signal.SIGSTOP)  # for the group it is gone, and yet it may continue
        assert list(local_members.crashed()) == []
    finally:
        end(process)
    assert list(local_members.crashed()) == ["the-id-since"]
    assert list(local_members.crashed()) == []  # given once


def test_a_crashed_worker_that_was_not_handled_comes_again_and_no_other_worker_gets_it_meanwhile(
    tmp_path: Path,
) -> None:
    for member_id in ("one", "two"):
        end(signer(tmp_path, member_id))
    local_members, other = LocalMembers(tmp_path), LocalMembers(tmp_path)
    crashed = local_members.crashed()
    first = next(crashed)
    assert list(other.crashed()) == [{"one": "two", "two": "one"}[first]]
    crashed.close()  # handling it has failed
    assert list(local_members.crashed()) == [first]


def test_a_worker_that_leaves_by_itself_is_not_given(tmp_path: Path) -> None:
    local_members = LocalMembers(tmp_path)
    local_members.enter("me")
    local_members.leave()
    local_members.leave()
    assert list(LocalMembers(tmp_path).crashed()) == []
    local_members.enter("me again")
    assert list(tmp_path.glob("*.new")) == []
    assert [path.read_text() for path in tmp_path.glob("*.member")] == ["me again"]


def test_without_a_folder_no_member_is_known_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    local_members = LocalMembers(tmp_path / "file" / "members")
    local_members.enter("me")
    local_members.enter("me")
    assert list(local_members.crashed()) == []
    local_members.leave()
