#!/usr/bin/env python3
"""Runs a program inside an emulated machine with a working /dev/kvm (machine.py), and ends with the program's status.

    tests/nested/run.py [--kernel stock|private] [--file SOURCE[:TARGET]]… [--limit-s N] [--memory-mib N]
                        PROGRAM [ARGUMENT]…

PROGRAM is a program or a busybox shell script of this machine; --file brings others along, to /bin unless TARGET says
otherwise. The shared libraries that programs need come with them. Nothing that is written there survives.

The kernel "private" has real private memory (private_kvm.py); making it takes minutes, so SEALIFT_LONG=1 must be set.

Status 77: this machine lacks something, the reason is printed. 124: the program took longer than the limit (600 s).
125: the emulated machine failed.
"""
import argparse
import os
import pathlib
import sys
import time

import machine
import private_kvm
from packages import Missing

SKIPPED, TIMED_OUT, FAILED = 77, 124, 125


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=("stock", "private"), default="stock")
    parser.add_argument("--file", action="append", default=[], metavar="SOURCE[:TARGET]")
    parser.add_argument("--limit-s", type=int, default=600)
    parser.add_argument("--memory-mib", type=int, default=3072)
    parser.add_argument("program")
    parser.add_argument("argument", nargs=argparse.REMAINDER)
    return parser.parse_args()


def kernel_of(choice):
    if choice == "stock":
        return machine.stock_kernel()
    if os.environ.get("SEALIFT_LONG") != "1":
        raise Missing("SEALIFT_LONG=1 is not set: a kernel module has to be built, which takes minutes")
    return private_kvm.private_kernel()


def main():
    options = arguments()
    files = []
    for word in [options.program] + options.file:
        source, _, target = word.partition(":")
        files.append((source, target or f"/bin/{pathlib.Path(source).name}"))
    began = time.monotonic()
    try:
        kernel = kernel_of(options.kernel)
        status = machine.run(kernel, files, [files[0][1], *options.argument], options.limit_s, options.memory_mib)
    except Missing as reason:
        print(f"nested: skipped: {reason}")
        return SKIPPED
    except machine.TimedOut as reason:
        print(f"\nnested: {reason}")
        return TIMED_OUT
    except machine.MachineFailed as reason:
        print(f"\nnested: {reason}")
        return FAILED
    print(f"nested: status {status} after {time.monotonic() - began:.1f} s, on {kernel.image.name}")
    return status


if __name__ == "__main__":
    sys.exit(main())
