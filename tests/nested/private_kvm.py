#!/usr/bin/env python3
"""Debian's 6.12 kernel with guests that have real private memory and need no special processor: VM type
KVM_X86_SW_PROTECTED_VM. Debian leaves it out, but only kvm.ko looks at that option: kvm.ko and kvm-amd.ko are built anew
for the kernel as it is packaged. 300 MB are downloaded and kept in the cache with the result; nothing is installed.

    tests/nested/private_kvm.py     builds it, if it is not there, and says where it is
"""
import pathlib
import re
import shutil
import subprocess
import tempfile

from machine import Kernel, kernel_in
from packages import CACHE, appears_whole, downloaded, locked_cache, need_tools, unpacked

SOURCE = "linux-source-6.12"
OPTION = "CONFIG_KVM_SW_PROTECTED_VM"
KVM_FOLDERS = ("arch/x86/kvm", "virt/kvm")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")


def source_tree(kernel, work):
    """Headers of the packaged kernel, with KVM's source among them, in `work`: (their folder, the source's)."""
    base = kernel.removesuffix("-amd64")
    for name in (f"linux-headers-{kernel}", f"linux-headers-{base}-common", f"linux-kbuild-{base}"):
        shutil.copytree(unpacked(name), work, symlinks=True, dirs_exist_ok=True)
    headers, common = (work / "usr/src" / f"linux-headers-{name}" for name in (kernel, f"{base}-common"))
    (headers / "vmlinux").unlink()  # the build would want pahole, for the modules' BTF
    makefile = headers / "Makefile"
    makefile.write_text(makefile.read_text(encoding="utf-8").replace("/usr/src/", f"{work}/usr/src/"), encoding="utf-8")
    for folder in KVM_FOLDERS:
        shutil.rmtree(common / folder, ignore_errors=True)
    archive = next(unpacked(SOURCE).glob("usr/src/*.tar.xz"))
    run("tar", "-xJf", archive, "-C", common, "--strip-components=1", *(f"{SOURCE}/{name}" for name in KVM_FOLDERS))
    return headers, common


def build(kernel, folder):
    with appears_whole(folder) as incoming, tempfile.TemporaryDirectory(dir=CACHE, prefix=".build-") as work:
        headers, common = source_tree(kernel, pathlib.Path(work).resolve())
        built = common / "arch/x86/kvm"
        run("make", "-C", headers, f"M={built}", "-j2", "CONFIG_KVM_INTEL=n", f"{OPTION}=y", f"KCFLAGS=-D{OPTION}=1",
            "modules")
        for name in ("kvm.ko", "kvm-amd.ko"):
            run("strip", "-g", "-o", incoming / name, built / name)


def private_kernel():
    need_tools("make", "gcc", "tar", "xz", "strip")
    with locked_cache():
        # The source 6.12.117-1~deb12u1 is that of the package linux-image-6.12.117+deb12-amd64.
        version = re.match(rf"{SOURCE}_([^-]+)-", downloaded(SOURCE).name)[1]
        kernel = f"{version}+deb12-amd64"
        stock = kernel_in(unpacked(f"linux-image-{kernel}"))
        folder = CACHE / "private" / kernel
        if not folder.is_dir():
            print(f"nested: building KVM with {OPTION} for {kernel}", flush=True)
            build(kernel, folder)
        return Kernel(stock.image, (folder, *stock.modules))


if __name__ == "__main__":
    print(private_kernel().modules[0])
