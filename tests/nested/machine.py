"""A Linux machine with a working kvm_amd where the host has none: QEMU emulates an AMD processor with SVM and nested
paging, a Debian kernel boots on it, and a program of ours runs there as root, with /dev/kvm and a loopback interface.

The program's output goes to our stdout through the first serial line; how it ended comes back on the second one, which
neither that output nor a kernel message can reach. The host's /dev/kvm is not used.
"""
import dataclasses
import lzma
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

from packages import CACHE, dependency, locked_cache, need_tools, unpacked

HERE = pathlib.Path(__file__).resolve().parent
# Emulation beside other work is slow: these limits only end what hangs. A boot takes 2 to 5 s on an idle machine.
BOOT_LIMIT_S = 120
CPU = "EPYC,+svm,+npt"


class MachineFailed(Exception):
    """The machine, not the program in it, went wrong."""


class BootFailed(MachineFailed):
    """The program never began."""


class TimedOut(Exception):
    """The program began, and did not end in time."""


@dataclasses.dataclass
class Kernel:
    image: pathlib.Path  # bzImage
    modules: tuple  # folders with modules at any depth; the first that has one counts
    options: str = ""  # of kvm_amd


def kernel_in(folder):
    """The kernel of an unpacked linux-image package."""
    return Kernel(next(folder.glob("boot/vmlinuz-*")), (folder / "lib" / "modules",))


def stock_kernel():
    """Debian's kernel for virtual machines. A cached one is taken without a question to the network.

    Guests use shadow paging: on QEMU 7.2's nested paging, with two CPUs that both run guests, a guest now and then gets a
    page fault at the instruction after an entry, with its tables intact, and triple-faults, in a minute of fast exits.
    """
    with locked_cache():
        cached = sorted((CACHE / "unpacked").glob("linux-image-*-cloud-amd64"))
        name = cached[-1].name if cached else dependency("linux-image-cloud-amd64", "linux-image-[0-9].*")
        return dataclasses.replace(kernel_in(unpacked(name)), options="npt=0")


def libraries(program):
    """The shared libraries and the loader of an ELF program; nothing for a script or a static program."""
    with open(program, "rb") as file:
        if file.read(4) != b"\x7fELF":
            return []
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    if "not found" in text:
        raise MachineFailed(f"{program} lacks a library here, too: {text}")
    return re.findall(r"(?:=> |^\s+)(/\S+) \(", text, re.MULTILINE)


def copy_modules(kernel, name, target, order):
    """Depth first, so that what a module depends on is loaded before it."""
    if name in order:
        return
    found = [path for folder in kernel.modules for path in folder.rglob("*.ko*")
             if path.name.split(".")[0].replace("-", "_") == name]
    if not found:
        raise MachineFailed(f"the kernel {kernel.image.name} has no module {name}")
    content = found[0].read_bytes()
    if found[0].suffix == ".xz":
        content = lzma.decompress(content)
    depends = re.search(rb"\0depends=([^\0]*)\0", content)[1].decode()
    for other in filter(None, depends.split(",")):
        copy_modules(kernel, other.replace("-", "_"), target, order)
    (target / f"{name}.ko").write_bytes(content)
    order.append(name)


def place(root, source, at):
    target = root / str(at).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)  # follows links, keeps the mode


def write_initramfs(kernel, files, command, out):
    """`files`: pairs of a file here and its path there. `command`: what to run there."""
    with locked_cache():
        busybox = unpacked("busybox-static") / "bin" / "busybox"
    with tempfile.TemporaryDirectory(prefix="sealift-nested-") as folder:
        root = pathlib.Path(folder)
        for name in ("bin", "dev", "proc", "sys", "tmp", "modules"):
            (root / name).mkdir()
        place(root, busybox, "/bin/busybox")
        place(root, HERE / "init", "/init")
        order = []
        copy_modules(kernel, "kvm_amd", root / "modules", order)
        order[-1] += f" {kernel.options}"
        (root / "modules" / "order").write_text("\n".join(order) + "\n", encoding="utf-8")
        for source, at in files:
            place(root, source, at)
            for library in libraries(source):
                place(root, library, library)
        (root / "command").write_text(shlex.join(command) + "\n", encoding="utf-8")
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        with open(out, "wb") as file:
            subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root, input=names.encode(),
                           stdout=file, check=True)


def qemu(kernel, initramfs, verdict, memory_mib):
    # setpriv: the machine ends with us, whatever ends us. A thread for each emulated CPU: with a single one, guests
    # with two vCPUs may hang.
    return ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35",
            "-cpu", CPU, "-smp", "2", "-m", str(memory_mib), "-nodefaults", "-no-user-config", "-display", "none",
            "-monitor", "none", "-no-reboot", "-serial", "stdio", "-serial", f"file:{verdict}",
            "-kernel", kernel.image, "-initrd", initramfs, "-append", "console=ttyS0 loglevel=3 panic=-1"]


def ends_within(machine, seconds):
    try:
        machine.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def wait_for_status(machine, verdict, limit_s):
    """What /init said in `verdict`: "started", then "exit STATUS"."""
    boot_end = time.monotonic() + BOOT_LIMIT_S
    while "started" not in verdict.read_text(encoding="utf-8"):
        if time.monotonic() > boot_end:
            raise BootFailed(f"not up after {BOOT_LIMIT_S} s")
        if ends_within(machine, 0.2) and "started" not in verdict.read_text(encoding="utf-8"):
            raise BootFailed("ended while booting")
    if not ends_within(machine, limit_s):
        raise TimedOut(f"the program did not end within {limit_s} s")
    status = re.search(r"^exit (\d+)$", verdict.read_text(encoding="utf-8"), re.MULTILINE)
    if not status:
        raise MachineFailed("the machine ended before the program did")
    return int(status[1])


def boot(kernel, initramfs, limit_s, memory_mib):
    """Boots once, and gives the program's status; `limit_s` is the program's."""
    with tempfile.TemporaryDirectory(prefix="sealift-nested-") as folder:
        verdict, errors = pathlib.Path(folder, "verdict"), pathlib.Path(folder, "errors")
        verdict.touch()
        sys.stdout.flush()
        with open(errors, "wb") as log, \
             subprocess.Popen(qemu(kernel, initramfs, verdict, memory_mib), stdin=subprocess.DEVNULL,
                              stderr=log) as machine:
            try:
                return wait_for_status(machine, verdict, limit_s)
            except MachineFailed as failure:
                said = [line for line in errors.read_text(errors="replace").splitlines() if "warning: TCG" not in line]
                raise type(failure)(f"{failure}; QEMU says: {' '.join(said) or 'nothing'}") from None
            finally:
                machine.kill()


def run(kernel, files, command, limit_s, memory_mib):
    """Runs `command` inside, and gives its status. A boot that fails is tried once more; a program never is."""
    need_tools("qemu-system-x86_64", "cpio", "setpriv", "ldd")
    with tempfile.NamedTemporaryFile(prefix="sealift-nested-", suffix=".cpio") as initramfs:
        write_initramfs(kernel, files, command, initramfs.name)
        try:
            return boot(kernel, initramfs.name, limit_s, memory_mib)
        except BootFailed as failure:
            print(f"\nnested: the machine did not boot: {failure}; trying once more", flush=True)
            return boot(kernel, initramfs.name, limit_s, memory_mib)
