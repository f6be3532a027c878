"""What is tried within a container: a program of Python's own library, given to `python3 -c`.

    inside.py '{"say": 1}'                                      what the kernel says of a container whose first process this is
    inside.py '{"try": {"name": ["act", arg, …], …}}'           {"name": [allowed, "what happened"], …}
    inside.py '{"try at once": …}'                              the same, for acts that wait for others

An act that returns was allowed, one that raises `OSError` was refused. Each is done in a process of its own, so that what it
changes there (namespaces, root, user) ends with it, and undone where it is not. None harms a machine that allows it.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import hashlib
import json
import os
import platform
import resource
import shutil
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
LIMIT_S = 10
WAIT_S = 3
CALLS = {  # numbers that libc has no functions for
    "x86_64": {"init_module": 175, "bpf": 321, "perf_event_open": 298, "add_key": 248, "kexec_load": 246,
               "open_by_handle_at": 304, "userfaultfd": 323, "process_vm_readv": 310},
    "aarch64": {"init_module": 105, "bpf": 280, "perf_event_open": 241, "add_key": 217, "kexec_load": 104,
                "open_by_handle_at": 265, "userfaultfd": 282, "process_vm_readv": 270},
}  # fmt: skip
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
MS_REMOUNT, MS_BIND = 32, 4096
DENIED_BEFORE_ARGUMENTS = (1, 13)  # EPERM, EACCES: others say that the call got as far as to look at its arguments


def checked(result: int) -> int:
    """The result of a function of libc; `OSError` if it failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# files


def write(folder: str) -> str:
    """Make a file there."""
    path = os.path.join(folder, "sitestream-test-file")
    with open(path, "w"):
        pass
    os.unlink(path)
    return f"wrote {path}"


def open_to_write(pattern: str) -> str:
    """Open a file of the kernel's for writing, without writing."""
    refusal: OSError = FileNotFoundError(pattern)
    for path in glob.glob(pattern):
        try:
            os.close(os.open(path, os.O_WRONLY))
        except OSError as e:
            refusal = e
        else:
            return f"opened {path}"
    raise refusal


def read(pattern: str) -> str:
    """Read a byte."""
    for path in glob.glob(pattern):
        with open(path, "rb", buffering=0) as file:
            if file.read(1):
                return f"read {path}"
    raise FileNotFoundError(f"{pattern}: nothing there")


def find(name: str, digest: str) -> str:
    """Find a file by its name and the SHA-256 of its content, anywhere."""
    for top in ("/run", "/data", "/home", "/root", "/etc", "/mnt", "/tmp", "/var", "/opt", "/srv"):
        for folder, _, files in os.walk(top):
            if name in files:
                with contextlib.suppress(OSError), open(f"{folder}/{name}", "rb") as file:
                    if hashlib.sha256(file.read()).hexdigest() == digest:
                        return f"{folder}/{name}"
    raise FileNotFoundError(name)


def run_from(folder: str) -> str:
    """Bring a program along and run it."""
    path = f"{folder}/sitestream-test-program"
    shutil.copy(os.path.realpath(sys.executable), path)
    try:
        os.chmod(path, 0o755)  # noqa: S103 - it is to be run
        pid = os.posix_spawn(path, [path, "--version"], {})
        return f"ran with status {os.waitpid(pid, 0)[1]}"
    finally:
        os.unlink(path)


def shell() -> str:
    """Start a shell, wherever there is one."""
    found = (f"{folder}/{f}" for folder, _, files in _folders() for f in files if f in ("sh", "ash", "bash", "dash"))
    for path in found:
        with contextlib.suppress(OSError):
            if os.waitpid(os.posix_spawn(path, [path, "-c", "exit 7"], {}), 0)[1] == 7 << 8:
                return f"ran {path}"
    raise FileNotFoundError("no shell")


def fill(folder: str, mebibytes: int) -> str:
    """Write that much there."""
    path = f"{folder}/sitestream-test-filler"
    try:
        with open(path, "wb") as file:
            for _ in range(mebibytes):
                file.write(bytes(2**20))
        return f"wrote {mebibytes} MiB"
    finally:
        os.unlink(path)


def chown() -> str:
    """Give a file away."""
    path = "/tmp/sitestream-test-owned"
    with open(path, "w"):
        pass
    try:
        os.chown(path, os.getuid() + 1, -1)
        return "it belongs to another user"
    finally:
        os.unlink(path)


def mknod() -> str:
    """Make a device."""
    path = "/tmp/sitestream-test-device"
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.unlink(path)
    return "made a device"


# the kernel


def mount() -> str:
    """Mount something."""
    checked(LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None))
    checked(LIBC.umount2(b"/tmp", 0))
    return "mounted"


def remount_root() -> str:
    """Make the root file system writable."""
    checked(LIBC.mount(None, b"/", None, MS_REMOUNT | MS_BIND, None))
    return "remounted"


def unshare(flag: int) -> str:
    """Make a namespace."""
    checked(LIBC.unshare(flag))
    return "made a namespace"


def join_namespace(path: str) -> str:
    """Enter a namespace, be it our own."""
    with open(path) as namespace:
        checked(LIBC.setns(namespace.fileno(), 0))
    return "entered"


def chroot() -> str:
    """Take another root."""
    os.chroot("/")
    return "took another root"


def hostname() -> str:
    """Rename the machine, to what it is called already."""
    socket.sethostname(socket.gethostname())
    return "named"


def nice() -> str:
    """Take precedence over others."""
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    return f"priority {os.getpriority(os.PRIO_PROCESS, 0)}"


def dump() -> str:
    """Allow itself to leave its memory in a file when it crashes."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (2**30, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except ValueError as e:
        raise PermissionError(str(e)) from e
    return "would leave a core dump"


def become_root() -> str:
    """Take the user id 0."""
    os.setuid(0)
    return "is root"


def root_by_program(path: str) -> str:
    """Run a Python that is root's with the setuid bit, and see whom the kernel takes it for."""
    status = os.stat(path)
    assert status.st_mode & stat.S_ISUID
    assert status.st_uid == 0
    pid = os.posix_spawn(path, [path, "-S", "-c", "import os; os._exit(os.geteuid() != 0)"], {})
    if os.waitpid(pid, 0)[1]:
        raise PermissionError("it is not root")
    return "it is root"


def raw_socket(family: int, protocol: int) -> str:
    """Send and see packets of any kind."""
    socket.socket(family, socket.SOCK_RAW, protocol).close()
    return "has a raw socket"


def trace(pid: int) -> str:
    """Attach to a process as a debugger does."""
    checked(LIBC.ptrace(PTRACE_ATTACH, pid, None, None))
    os.waitpid(pid, 0x40000000)
    checked(LIBC.ptrace(PTRACE_DETACH, pid, None, None))
    return f"traced {pid}"


def see(pid: int) -> str:
    """Send a process nothing, which tells whether we could send it something."""
    os.kill(pid, 0)
    return f"sees {pid}"


def call(name: str, *arguments: int) -> str:
    """A system call with arguments that come to nothing."""
    number = CALLS[platform.machine()][name]
    try:
        checked(LIBC.syscall(number, *(ctypes.c_long(a) for a in arguments)))
    except OSError as e:
        if e.errno in DENIED_BEFORE_ARGUMENTS:
            raise
        return f"may: {e.strerror}"
    return "may"


def reboot() -> str:
    """Ask for a restart, in words that the kernel cannot take."""
    try:
        checked(LIBC.syscall({"x86_64": 169, "aarch64": 142}[platform.machine()], 0, 0, 0, 0))
    except OSError as e:
        if e.errno in DENIED_BEFORE_ARGUMENTS:
            raise
    return "may"


def kernel_log() -> str:
    """Read what the kernel has said."""
    return f"{checked(LIBC.klogctl(3, ctypes.create_string_buffer(64), 64))} bytes"


def make_cgroup() -> str:
    """Make a control group, which has limits of its own."""
    for folder in [*glob.glob("/sys/fs/cgroup/memory"), "/sys/fs/cgroup"]:
        path = f"{folder}/sitestream-test"
        with contextlib.suppress(FileNotFoundError):
            os.mkdir(path)
            os.rmdir(path)
            return path
    raise FileNotFoundError("/sys/fs/cgroup")


# limits


def processes(number: int) -> str:
    """Start so many."""
    children = []
    try:
        for _ in range(number):
            pid = os.fork()
            if pid == 0:
                time.sleep(LIMIT_S)
                os._exit(0)
            children.append(pid)
        return f"started {number}"
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def memory(mebibytes: int) -> str:
    """Use so much; `OSError` if whoever does is killed for it."""
    pid = os.fork()
    if pid == 0:
        kept = bytearray()
        for _ in range(mebibytes):
            kept += b"x" * 2**20
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status:
        raise OSError(f"ended by signal {os.WTERMSIG(status)}")
    return f"used {mebibytes} MiB"


def files(number: int) -> str:
    """Hold so many files open."""
    opened = []
    try:
        for _ in range(number):
            opened.append(os.open("/dev/null", os.O_RDONLY))
        return f"opened {number}"
    finally:
        for descriptor in opened:
            os.close(descriptor)


# the network


def connect(host: str, port: int) -> str:
    """Reach a server by TCP."""
    socket.create_connection((host, port), WAIT_S).close()
    return f"reached {host}:{port}"


def docker_socket() -> str:
    """Speak with the engine, wherever its socket may be."""
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"):
        with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as link:
            link.connect(path)
            link.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return link.recv(64).decode()
    raise FileNotFoundError("no socket of an engine")


def mqtt_publish(host: str, port: int, user: str, password_file: str, topic: str) -> str:
    """Publish by MQTT 5, whose broker says whether it may be."""
    with open(password_file) as file:
        password = file.read().strip()
    with socket.create_connection((host, port), WAIT_S) as link:
        link.sendall(_packet(0x10, _text("MQTT") + b"\x05\xc2\x00\x0a\x00" + _text("") + _text(user) + _text(password)))
        _answer(link, 0x20)
        link.sendall(_packet(0x32, _text(topic) + b"\x00\x01\x00" + b"test"))
        return f"published with reason {_answer(link, 0x40)}"


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


def _packet(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


def _answer(link: socket.socket, kind: int) -> int:
    """The reason code of an acknowledgement; an error if it is a refusal."""
    reply = link.recv(256)
    reason = reply[3] if kind == 0x20 else reply[4] if reply[1] > 2 else 0
    if reply[0] != kind or reason >= 0x80:
        raise PermissionError(f"reason {reason:#x}")
    return reason


# what the kernel says


def facts(first: int) -> dict[str, Any]:
    """All that is known of this container from within; `first` is its first process as it sees it."""
    return {
        "first": _status(f"/proc/{first}/status"),
        "own": _status("/proc/self/status"),
        "command": _text_of(f"/proc/{first}/cmdline").split("\0"),
        "mounts": {m[1]: [m[2], m[3]] for m in (line.split() for line in _text_of("/proc/mounts").splitlines())},
        "devices": sorted(os.listdir("/dev")),
        "limits": {k: _limit(v) for k, v in (("core", resource.RLIMIT_CORE), ("files", resource.RLIMIT_NOFILE))},
        "cgroup": {name: _first_of(paths) for name, paths in CGROUP.items()},
        "namespaces": {n: os.readlink(f"/proc/{first}/ns/{n}") for n in ("ipc", "mnt", "net", "pid", "uts", "cgroup")},
        "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
        "zombies": [p for p in os.listdir("/proc") if p.isdigit() and "\nState:\tZ" in _text_of(f"/proc/{p}/status")],
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "secrets": _owned("/run/sitestream/secrets"),
        "writable": sorted(_writable()),
        "setuid": [f"{d}/{f}" for d, _, files in _folders() for f in files if _is_setuid(f"{d}/{f}")],
    }


CGROUP = {
    "memory": ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    "with swap": ("/sys/fs/cgroup/memory.swap.max", "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"),
    "processes": ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"),
    "processors": ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
}


def _writable() -> Iterator[str]:
    """Folders in which this user may make files, as far as modes and mounts tell."""
    return (folder for folder, _, _ in _folders() if os.access(folder, os.W_OK))


def _folders() -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk("/")`, but for the kernel's own."""
    for folder, inner, files in os.walk("/"):
        if folder == "/":
            inner[:] = set(inner) - {"proc", "sys"}
        yield folder, inner, files


def _is_setuid(path: str) -> bool:
    return bool(os.lstat(path).st_mode & (stat.S_ISUID | stat.S_ISGID))


def _status(path: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in _text_of(path).splitlines() if ":\t" in line)


def _text_of(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _first_of(paths: tuple[str, ...]) -> str:
    return next((text.strip() for text in map(_text_of, paths) if text), "")


def _limit(kind: int) -> int:
    return resource.getrlimit(kind)[1]


def _owned(folder: str) -> dict[str, list[int]]:
    found = {}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            s = os.stat(f"{folder}/{name}")
            found[name] = [s.st_mode & 0o7777, s.st_uid]
    return found


# main


def begin(act: str, arguments: list[Any]) -> tuple[int, int]:
    """Start an attempt: its process, and where it will say what happened."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(LIMIT_S)
        try:
            said = True, globals()[act](*arguments)
        except OSError as e:
            said = False, str(e)
        except BaseException as e:
            said = True, f"the attempt is broken: {e!r}"
        os.write(send, json.dumps(said).encode())
        os._exit(0)
    os.close(send)
    return pid, receive


def end(pid: int, receive: int) -> tuple[bool, str]:
    """Whether it was allowed, and what happened."""
    with open(receive) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    allowed, said = json.loads(text) if text else (True, f"no answer in {LIMIT_S} s")
    return allowed, said


def main() -> None:
    """See above."""
    asked = json.loads(sys.argv[1])
    if "say" in asked:
        print(json.dumps(facts(asked["say"])))
    elif "try" in asked:
        print(json.dumps({name: end(*begin(act, arguments)) for name, (act, *arguments) in asked["try"].items()}))
    else:
        begun = {name: begin(act, arguments) for name, (act, *arguments) in asked["try at once"].items()}
        print(json.dumps({name: end(*attempt) for name, attempt in begun.items()}))


if __name__ == "__main__":
    main()
