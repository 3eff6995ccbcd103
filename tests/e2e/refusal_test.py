"""Bad input: one clear sentence with the values in it, and its exit code, on both sides."""
import pathlib
import socket
import subprocess
import unittest

from agents import AGENT, LIMIT_S, MIGRATE, AgentTest

GUEST = ("platform=sev", "backend=model", "memory=8M")


class RefusalTest(AgentTest):
    def run_agent(self, *arguments):
        return subprocess.run([AGENT, *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False)

    def test_memory_layout_that_does_not_match(self):
        a = self.agent("A", "source", *GUEST)
        b = self.agent("B", "destination", "platform=sev", "backend=model", "memory=16M")
        for command in ("check", "start"):
            done = self.migrate(command, "--to", b.listen, agent=a)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn("guest memory layouts differ: B has 0x0-0xffffff (16 MiB), A has 0x0-0x7fffff (8 MiB)",
                          done.stderr)
        self.assertIn("guest memory layouts differ", b.log())
        self.assert_runs_and_is_whole(a)

    def test_platform_and_vcpus_that_do_not_match(self):
        a = self.agent("A", "source", *GUEST)
        b = self.agent("B", "destination", "platform=none", "backend=model", "memory=8M")
        done = self.start(a, b)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("platforms differ: B has none, A has sev", done.stderr)
        c = self.agent("C", "destination", *GUEST, "vcpus=2")
        self.assertIn("vCPU counts differ: C has 2, A has 1", self.start(a, c).stderr)

    def test_a_guest_that_is_not_ready(self):
        for ready, words in (("never", "never"), ("withdrawn", "withdr")):
            a, b = self.pair(*GUEST, source=(f"ready={ready}",))
            for command in ("check", "start"):
                done = self.migrate(command, "--to", b.listen, agent=a)
                self.assert_one_clear_sentence(done, 3, "is not ready to be migrated", words)
            self.assertIn(words, self.json("status", agent=a)["vm"]["not_ready"])
            done = self.start(a, b, "--ignore-readiness")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assert_runs_and_is_whole(b)
            # Readiness is state of the guest and came along.
            self.assertIn(words, self.json("status", agent=b)["vm"]["not_ready"])

    def test_another_protocol_version(self):
        a = self.agent("A", "source", *GUEST)
        b = self.agent("B", "destination", *GUEST, "--protocol-versions", "7", "9")
        done = self.start(a, b)
        self.assertEqual(done.returncode, 3, done.stderr)
        text = "no common protocol version: B speaks 7 to 9, A speaks 1 to 1"
        self.assertIn(text, done.stderr)
        self.assertIn(text, b.log())
        self.assert_runs_and_is_whole(a)

    def test_certificate_of_another_authority(self):
        other = f"{self.work}/other"
        subprocess.run([MIGRATE, "certs", "--dir", other, "--host", "b", "--host", "op", "--name", "127.0.0.1"],
                       capture_output=True, check=True)
        a = self.agent("A", "source", *GUEST)
        b = self.agent("B", "destination", *GUEST, certs=f"{other}/b")
        done = self.start(a, b)
        self.assertEqual(done.returncode, 6, done.stderr)
        self.assertIn("certificate", done.stderr)
        self.assert_runs_and_is_whole(a)
        # The control API asks for a certificate of its own authority as well.
        refused = self.migrate("status", agent=a, certs=f"{other}/op")
        self.assert_one_clear_sentence(refused, 6, "certificate")

    def test_certificate_for_another_name(self):
        other = f"{self.certs}/elsewhere"
        subprocess.run([MIGRATE, "certs", "--dir", self.certs, "--host", "elsewhere", "--name", "far.example"],
                       capture_output=True, check=True)
        a = self.agent("A", "source", *GUEST)
        b = self.agent("B", "destination", *GUEST, certs=other)
        done = self.start(a, b)
        self.assertEqual(done.returncode, 6, done.stderr)
        self.assertIn("127.0.0.1", done.stderr)
        self.assertIn("far.example", done.stderr)

    def test_no_certificates(self):
        a = self.agent("A", "source", *GUEST)
        self.assertEqual(self.migrate("status", agent=a, certs=False).returncode, 9)
        done = self.run_agent("--role", "source", "--control", "tcp:127.0.0.1:0", *GUEST)
        self.assertEqual(done.returncode, 2)
        self.assertIn("needs --certs", done.stderr)

    def test_addresses_that_do_not_exist(self):
        a = self.agent("A", "source", *GUEST)
        with socket.socket() as unused:  # bound and not listening: nobody answers there
            unused.bind(("127.0.0.1", 0))
            nowhere = f"tcp:127.0.0.1:{unused.getsockname()[1]}"
            done = self.migrate("start", "--to", nowhere, agent=a)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(f"connect to {nowhere}: Connection refused", done.stderr)
            self.assert_one_clear_sentence(self.migrate("status", agent=nowhere), 9, nowhere, "Connection refused")
        self.assert_one_clear_sentence(self.migrate("status", agent="unix:/nonexistent/x.sock"), 9,
                                       "/nonexistent/x.sock")
        self.assert_runs_and_is_whole(a)

    def test_bad_options(self):
        a = self.agent("A", "source", *GUEST)
        for arguments, part in (
                (("start", "--to", "tcp:127.0.0.1"), "tcp:127.0.0.1"),
                (("start", "--to", "tcp:127.0.0.1:99999"), "99999"),
                (("start", "--to", "tcp:127.0.0.1:1", "--rounds-max", "0"), "rounds-max"),
                (("start", "--to", "tcp:127.0.0.1:1", "--on-stall", "hope"), "hope"),
                (("digest", "--at", "noon"), "noon"),
        ):
            self.assert_one_clear_sentence(self.migrate(*arguments, agent=a), 2, part)
        self.assertEqual(self.migrate("fly").returncode, 2)
        self.assertEqual(self.migrate("start", "--to", "tcp:127.0.0.1:1").returncode, 2)

    def test_bad_guest_options(self):
        control = ("--role", "source", "--control", f"unix:{self.work}/c.sock")
        for words, part in (
                (("memory=12"), "memory=12"),
                (("memory=0"), "memory=0"),
                (("platform=enclave"), "platform=enclave"),
                (("workload=dance"), "dance"),
                (("vcpus=0"), "0 vCPUs"),
                (("vcpus=many"), "vcpus=many"),
                (("colour=red"), "colour=red"),
                (("nonsense"), "nonsense"),
                (("image=/nonexistent"), "/nonexistent"),
        ):
            done = self.run_agent(*control, "backend=model", words)
            self.assertIn(done.returncode, (1, 2), words)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
            self.assertIn(part, done.stderr)
        path = pathlib.Path(self.work, "bad.toml")
        path.write_text("memory = [1]\n", encoding="utf-8")
        done = self.run_agent(*control, "--guest-file", str(path))
        self.assertEqual(done.returncode, 2)
        self.assertIn("memory must be a string or a whole number", done.stderr)

    def test_busy_destination(self):
        a, b = self.pair(*GUEST)
        self.assertEqual(self.start(a, b).returncode, 0)
        c = self.agent("C", "source", *GUEST)
        done = self.start(c, b)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("B cannot take a guest: it is running", done.stderr)
        self.assert_runs_and_is_whole(b)
        self.assert_runs_and_is_whole(c)
        done = self.start(a, b)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("A has no running guest to migrate: it is handed-over", done.stderr)

    def test_strangers_at_the_door(self):
        """Bytes that are no migration leave the destination working."""
        a, b = self.pair(*GUEST)
        host, port = b.listen.removeprefix("tcp:").rsplit(":", 1)
        for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64):
            with socket.create_connection((host, int(port)), timeout=10) as stranger:
                stranger.sendall(noise)
        self.assertEqual(self.start(a, b).returncode, 0)
        self.assert_same_digests(a, b)


if __name__ == "__main__":
    unittest.main()
