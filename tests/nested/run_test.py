"""What run.py promises: the program's own status, libraries, time limits, and skips that say why."""
import os
import pathlib
import subprocess
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
RUN = str(HERE / "run.py")
SKIPPED, TIMED_OUT, FAILED = 77, 124, 125


class RunTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="sealift-nested-test-")
        self.addCleanup(self.folder.cleanup)

    def script(self, text):
        path = pathlib.Path(self.folder.name, "script.sh")
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def call(self, *arguments, may_skip=True, **environment):
        done = subprocess.run([RUN, *arguments], capture_output=True, text=True, timeout=600, check=False,
                              env={**os.environ, **environment})
        if may_skip and done.returncode == SKIPPED:
            self.skipTest(done.stdout.strip())
        return done

    def test_status_output_files_and_what_is_there(self):
        extra = pathlib.Path(self.folder.name, "extra")
        extra.write_text("brought along\n", encoding="utf-8")
        done = self.call("--file", f"{extra}:/etc/extra", "--file", "/usr/bin/openssl", self.script(
            'cat /etc/extra\n[ -c /dev/kvm ] && echo "kvm, $(nproc) CPUs"\nping -c 1 127.0.0.1 >/dev/null && echo loopback\n'
            'openssl version\necho "$1|$2"\nexit 3'), "two words", "it's")
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        for line in ("brought along", "kvm, 2 CPUs", "loopback", "OpenSSL 3", "two words|it's"):
            self.assertIn(line, done.stdout)

    def test_a_program_cannot_pretend_its_status(self):
        done = self.call(self.script("echo 'exit 0'; echo started; exit 5"))
        self.assertEqual(done.returncode, 5, done.stdout + done.stderr)

    def test_a_program_that_hangs(self):
        done = self.call("--limit-s", "5", self.script("while :; do sleep 100; done"))
        self.assertEqual(done.returncode, TIMED_OUT, done.stdout + done.stderr)
        self.assertIn("did not end within 5 s", done.stdout)

    def test_a_machine_that_dies_is_not_tried_again(self):
        done = self.call(self.script("echo here; poweroff -f"))
        self.assertEqual(done.returncode, FAILED, done.stdout + done.stderr)
        self.assertIn("ended before the program did", done.stdout)
        self.assertEqual(done.stdout.count("here"), 1)

    def test_a_machine_that_does_not_boot_is_tried_once_more(self):
        emulator = pathlib.Path(self.folder.name, "qemu-system-x86_64")
        emulator.write_text("#!/bin/sh\necho broken >&2\nexit 1\n", encoding="utf-8")
        emulator.chmod(0o755)
        done = self.call(self.script("exit 0"), PATH=f"{self.folder.name}:{os.environ['PATH']}")
        self.assertEqual(done.returncode, FAILED, done.stdout + done.stderr)
        self.assertEqual(done.stdout.count("trying once more"), 1)
        self.assertEqual(done.stdout.count("QEMU says: broken"), 2)

    def test_without_the_machine_emulator_it_skips(self):
        bin_folder = pathlib.Path(self.folder.name, "bin")
        bin_folder.mkdir()
        (bin_folder / "python3").symlink_to("/usr/bin/python3")
        (bin_folder / "env").symlink_to("/usr/bin/env")
        done = self.call(self.script("exit 0"), may_skip=False, PATH=str(bin_folder))
        self.assertEqual(done.returncode, SKIPPED, done.stdout + done.stderr)
        self.assertIn("is not installed", done.stdout)

    def test_without_packages_it_skips(self):
        done = self.call(self.script("exit 0"), may_skip=False, XDG_CACHE_HOME=f"{self.folder.name}/cache",
                         APT_CONFIG="/dev/null", http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
        self.assertEqual(done.returncode, SKIPPED, done.stdout + done.stderr)
        self.assertIn("cannot be downloaded", done.stdout)

    def test_the_long_kernel_is_asked_for(self):
        done = self.call("--kernel", "private", self.script("exit 0"), may_skip=False, SEALIFT_LONG="")
        self.assertEqual(done.returncode, SKIPPED, done.stdout + done.stderr)
        self.assertIn("SEALIFT_LONG=1", done.stdout)


if __name__ == "__main__":
    unittest.main()
