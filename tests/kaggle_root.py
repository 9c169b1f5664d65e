"""Run a command where / is as here, but for /kaggle, and where there is no network: a file system of its own.

For `unshare --user --map-root-user --mount --net`, which any user may call where the kernel allows it; as a program:

    unshare ... python kaggle_root.py SPEC COMMAND...

SPEC is JSON: "root" (an empty folder), "inputs" (source folder by path below /kaggle/input; read-only), "working" (the
folder that becomes /kaggle/working) and "disk_mib" (instead, an empty disk of that size; 0 for none), "first" (files
that are copied into /kaggle/working, by name).
"""
from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def loopback_up() -> None:
    """A kernel and its client talk over 127.0.0.1, which is down in a new network; everything else stays away."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack("16sh", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0)))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def build(root: Path, spec: dict[str, Any]) -> None:
    """Bind everything that is in / into `root`, and make its /kaggle."""
    mount("-t", "tmpfs", "kaggle_root", root)
    for entry in Path("/").iterdir():
        place = root / entry.name
        if entry.name == "kaggle":
            continue
        if entry.is_symlink():
            place.symlink_to(os.readlink(entry))
        elif entry.is_dir():
            place.mkdir()
            mount("--rbind", entry, place)
    working = root / "kaggle" / "working"
    working.mkdir(parents=True)
    for name, source in spec["inputs"].items():
        place = root / "kaggle" / "input" / name
        place.mkdir(parents=True)
        mount("--bind", source, place)
        mount("-o", "remount,bind,ro", place)
    if spec["disk_mib"]:
        mount("-t", "tmpfs", "-o", f"size={spec['disk_mib']}m", "working", working)
    else:
        mount("--bind", spec["working"], working)
    for name, source in spec["first"].items():
        shutil.copyfile(source, working / name)


if __name__ == "__main__":
    described = json.loads(sys.argv[1])
    loopback_up()
    build(Path(described["root"]), described)
    os.chroot(described["root"])
    os.chdir("/kaggle/working")
    os.execv(sys.argv[2], sys.argv[2:])
