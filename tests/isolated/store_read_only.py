"""Open stores that may not be written, as a user who is not root.

    python tests/isolated/store_read_only.py

Prints "done". Root may write anything, so the script becomes another user first, in a folder of its
own that this user can reach.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from agent_event_bus.store import EventStore, StoreError, verify_file

NOBODY = 65534
COUNT = 100


def refused(path: Path) -> None:
    """Opening this must raise a StoreError that names the file, and change nothing."""
    before = path.read_bytes() if path.exists() else None
    said = f"{path} was opened"
    try:
        EventStore(path)
    except StoreError as error:
        said = str(error)
    assert said.startswith(f"'{path}': "), said
    assert (path.read_bytes() if path.exists() else None) == before


def main() -> None:
    """Prepare the files, become nobody, and try."""
    # Everything that will be imported lazily must be there before: the home of another user's
    # Python may be closed to nobody.
    with EventStore(Path(tempfile.mkdtemp()) / "warm.db") as warm:
        asyncio.run(warm.append_async("a", {}))
        assert verify_file(warm.path) == []
    shutil.rmtree(Path(warm.path).parent)

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        for name in ("file", "folder", "both"):
            (folder / name).mkdir()
            with EventStore(folder / name / "log.db") as store:
                for number in range(COUNT):
                    store.append("a", {"number": number})
        (folder / "file" / "log.db").chmod(0o444)
        (folder / "file").chmod(0o777)
        (folder / "folder" / "log.db").chmod(0o666)
        (folder / "folder").chmod(0o555)
        (folder / "both" / "log.db").chmod(0o444)
        (folder / "both").chmod(0o555)

        child = os.fork()
        if child == 0:
            try:
                if os.getuid() == 0:
                    # A root that may not do this, in a container, may not write anything either.
                    with suppress(PermissionError):
                        os.setgid(NOBODY)
                        os.setuid(NOBODY)
                for name in ("file", "folder", "both"):
                    refused(folder / name / "log.db")
                    assert verify_file(folder / name / "log.db") == []
                refused(folder / "both" / "new.db")
                refused(folder / "both" / "nowhere" / "new.db")
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        for name in ("file", "folder", "both"):
            # Whatever was left there could keep the store from being written again.
            assert os.listdir(folder / name) == ["log.db"], name
            (folder / name).chmod(0o777)
            (folder / name / "log.db").chmod(0o666)
            with EventStore(folder / name / "log.db") as store:
                assert [e.payload["number"] for e in store.read()] == list(range(COUNT))
                assert store.verify() == []
    finally:
        for name in ("file", "folder", "both"):
            (folder / name).chmod(0o777)
        shutil.rmtree(folder)
    print("done")


if __name__ == "__main__":
    main()
