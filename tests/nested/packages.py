"""Debian packages that tests want to look into: downloaded by name, unpacked under the user's cache, never installed."""
import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "sealift-nested"


class Missing(Exception):
    """What this machine lacks, in one sentence: a test that needs it is skipped."""


def need_tools(*names):
    for name in names:
        if shutil.which(name) is None:
            raise Missing(f"{name} is not installed")


@contextlib.contextmanager
def locked_cache():
    """Tests run side by side: one of them fills the cache, the others wait for it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def appears_whole(path):
    """A folder to fill, which gets the name `path` only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        yield pathlib.Path(folder)
        os.chmod(folder, 0o755)
        os.rename(folder, path)
        os.mkdir(folder)  # for TemporaryDirectory to remove


def downloaded(name):
    """The .deb of package `name`. REQUIRES: the cache is locked."""
    folder = CACHE / "debs" / name
    if not folder.is_dir():
        need_tools("apt-get")
        with appears_whole(folder) as incoming:
            print(f"nested: downloading {name}", flush=True)
            done = subprocess.run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name], cwd=incoming,
                                  capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Missing(f"{name} cannot be downloaded: {done.stderr.strip() or done.stdout.strip()}")
    return next(folder.glob("*.deb"))


def unpacked(name):
    """The folder with the files of package `name`. REQUIRES: the cache is locked."""
    folder = CACHE / "unpacked" / name
    if not folder.is_dir():
        need_tools("dpkg-deb")
        deb = downloaded(name)
        with appears_whole(folder) as incoming:
            subprocess.run(["dpkg-deb", "-x", deb, incoming], check=True)
    return folder


def dependency(package, pattern):
    """The name of what `package` depends on that matches `pattern`, as apt's lists have it."""
    need_tools("apt-cache")
    text = subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True, check=False).stdout
    found = re.search(rf"Depends: ({pattern})$", text, re.MULTILINE)
    if not found:
        raise Missing(f"apt's package lists have no {package}; apt-get update may bring it")
    return found[1]
