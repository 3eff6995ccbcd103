"""SEV and SEV-ES between two agents: what a check tells, what moves, and an independent look at every byte of it."""
import json
import os
import pathlib
import subprocess
import sys
import time
import unittest

from agents import BIN, LIMIT_S, AgentTest

CHECKER = pathlib.Path(__file__).parent.parent / "stream_checker" / "check.py"
sys.path.insert(0, str(CHECKER.parent))
import wire  # noqa: E402  pylint: disable=wrong-import-position


class SevTest(AgentTest):
    def findings(self, agent):
        report = self.json("status", agent=agent)["report"]
        return {finding["name"]: finding for finding in report["platform_findings"]}

    def test_a_check_shows_what_the_destination_is(self):
        a, b = self.pair("platform=sev", "backend=model", "memory=8M")
        done = self.migrate("check", "--to", b.listen, agent=a)
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("policy", "chain", "api", "c-bit", "memlock", "modelled"):
            self.assertIn(word, done.stdout)
        self.assertEqual({finding["level"] for finding in self.findings(a).values()}, {"ok", "warning"})
        self.assertEqual(self.findings(a)["modelled"]["level"], "warning")
        self.assertEqual(self.json("status", agent=b)["state"], "empty")
        # Progress of this migration from its first line on, not of one that never was.
        for line in done.stderr.splitlines():
            progress = json.loads(line)
            self.assertTrue(progress["phase"])
            self.assertLess(progress["elapsed_ms"], 60_000)

    def test_a_guest_that_may_not_leave_is_refused_before_anything_moves(self):
        a, b = self.pair("platform=sev", "backend=model", "memory=8M", "sev-policy=nodbg,nosend")
        for command in ("check", "start"):
            done = self.migrate(command, "--to", b.listen, agent=a)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("NOSEND", done.stdout + done.stderr)
            self.assertEqual(self.findings(a)["nosend"]["level"], "refuse")
            self.assertEqual(self.json("status", agent=b)["state"], "empty")
        self.assert_runs_and_is_whole(a)

    def test_a_guest_that_asks_for_amd_s_chain_is_refused_without_it(self):
        a, b = self.pair("platform=sev", "backend=model", "memory=8M", "sev-policy=nodbg,sev")
        done = self.migrate("check", "--to", b.listen, agent=a)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(self.findings(a)["chain"]["level"], "refuse")
        self.assert_runs_and_is_whole(a)

    def test_a_destination_that_expects_another_policy_is_found_by_the_check(self):
        a = self.agent("A", "source", "platform=sev", "backend=model", "memory=8M", "sev-policy=nodbg,noks")
        b = self.agent("B", "destination", "platform=sev", "backend=model", "memory=8M")
        done = self.migrate("check", "--to", b.listen, agent=a)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertEqual(self.findings(a)["policy"]["level"], "refuse")

    def test_options_that_contradict_each_other(self):
        for words, text in ((("platform=sev", "sev-policy=es"), "use platform=sev-es"),
                            (("platform=none", "sev-firmware=asp"), "need platform=sev"),
                            (("platform=sev", "sev-policy=1"), "hexadecimal"),
                            (("platform=sev-es", "backend=kvm"), "backend=model")):
            with self.assertRaisesRegex(RuntimeError, text):
                self.agent("A", "source", *words)

    def test_files_with_guest_data_are_their_owner_s_alone(self):
        capture, secrets = f"{self.work}/old-stream", f"{self.work}/old-secrets"
        for path in (capture, secrets):
            pathlib.Path(path).write_text("old", encoding="utf-8")
            os.chmod(path, 0o644)
        a, b = self.pair("platform=sev", "backend=model", "memory=4M", source=("--capture", capture),
                         destination=("--reveal-secrets-for-tests", secrets))
        self.assertEqual(self.start(a, b).returncode, 0)
        for path in (capture, secrets):
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
            self.assertNotIn(b"old", pathlib.Path(path).read_bytes()[:3])
        self.assertIn("can open a captured stream", b.log())
        os.mkfifo(f"{self.work}/fifo")
        with self.assertRaisesRegex(RuntimeError, "fifo for a capture"):
            self.agent("C", "source", "platform=sev", "backend=model", "memory=4M", "--capture", f"{self.work}/fifo")

    def test_a_domain_guest_is_refused_by_another_owner(self):
        a, b = self.pair("platform=sev", "backend=model", "memory=8M", "sev-policy=nodbg,domain")
        done = self.migrate("start", "--to", b.listen, agent=a)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(self.findings(a)["domain"]["level"], "refuse")
        self.assert_runs_and_is_whole(a)

    def test_sev_es_needs_commands_that_no_kernel_has(self):
        a, b = self.pair("platform=sev-es", "backend=model", "memory=8M")
        done = self.migrate("check", "--to", b.listen, agent=a)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("EINVAL", done.stdout + done.stderr)
        self.assertEqual(self.findings(a)["es"]["level"], "refuse")
        self.assert_runs_and_is_whole(a)

    def test_sev_es_moves_where_the_kernel_has_them(self):
        capture = f"{self.work}/es-stream"
        self.move("platform=sev-es", "backend=model", "memory=16M", "vcpus=2", "sev-vmsa=on",
                  source=("workload=flipstorm", "--capture", capture))
        dump = subprocess.run([BIN / "migrate-dump" / "migrate-dump", capture], capture_output=True, text=True,
                              timeout=LIMIT_S, check=False)
        self.assertEqual(dump.stdout.count("PlatformState"), 2, dump.stdout)
        self.assertNotIn("VcpuState", dump.stdout)

    def test_what_a_guest_never_touched_is_not_exported(self):
        _, b, done = self.move("platform=sev", "backend=model", "memory=64M", "populated=20", options=("--json",),
                               source=("workload=idle", "shared=0"))
        totals = json.loads(done.stdout)["totals"]
        pages = 64 << 20 >> 12
        self.assertLess(totals["firmware_exports"], pages * 0.22)
        self.assertGreater(totals["firmware_exports"], pages * 0.15)
        # Nobody even looked at the rest: it has no memory on either side.
        self.assertLess(totals["skipped_pages"], pages * 0.05)
        self.assertLess(self.resident_bytes(b), 0.25 * (64 << 20))
        # It stays so over a second hop: the pages that were never imported are not exported either.
        c = self.agent("C", "destination", "platform=sev", "backend=model", "memory=64M")
        again = self.start(b, c, "--json")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertLess(json.loads(again.stdout)["totals"]["firmware_exports"], pages * 0.22)
        self.assert_same_digests(b, c)
        self.assert_runs_and_is_whole(c)

    def test_slow_firmware(self):
        """400 pages/s: the guest is small, and shared pages do not wait."""
        a, _, done = self.move("platform=sev", "backend=model", "memory=8M", "populated=20", "sev-firmware=asp",
                               options=("--json", "--downtime-ms", "1000"), source=("workload=idle", "shared=10"))
        report = json.loads(done.stdout)
        self.assertLess(self.json("status", agent=a)["report"]["totals"]["firmware_exports"], 600)
        self.assertGreater(report["total_ms"], 700)

    def test_what_cannot_converge_is_given_up_early_and_with_numbers(self):
        # 64 MiB at 400 pages/s are 40 s; the guest writes far more than that.
        a, b = self.pair("platform=sev", "backend=model", "memory=64M", "sev-firmware=asp", source=("workload=random",))
        begun = time.monotonic()
        done = self.start(a, b, "--on-stall", "cancel")
        self.assertLess(time.monotonic() - begun, 20)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"guest writes about \d+ private pages/s and the firmware exports \d+")
        self.assert_runs_and_is_whole(a)


class StreamCheckerTest(AgentTest):
    def check(self, capture, secrets, *arguments):
        return subprocess.run([sys.executable, str(CHECKER), capture, secrets, *arguments], capture_output=True, text=True,
                              timeout=LIMIT_S, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})

    def captured(self, *guest, source=()):
        capture, secrets = f"{self.work}/{self.id()}.stream", f"{self.work}/{self.id()}.secrets"
        a, b = self.pair(*guest, source=(*source, "--capture", capture),
                         destination=("--reveal-secrets-for-tests", secrets))
        done = self.start(a, b)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(os.stat(secrets).st_mode & 0o777, 0o600)
        return capture, secrets, self.json("digest", agent=b)

    def test_a_captured_stream_is_authentic_and_is_the_guest(self):
        capture, secrets, digest = self.captured("platform=sev", "backend=model", "memory=16M", "populated=80",
                                                 source=("workload=flipstorm",))
        done = self.check(capture, secrets, "--expect-memory", digest["memory_sha256"])
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertGreater(report["private_pages"], 1000)
        self.assertGreater(report["shared_pages"], 100)

    def test_registers_of_a_captured_sev_es_guest(self):
        capture, secrets, digest = self.captured("platform=sev-es", "backend=model", "memory=8M", "vcpus=2", "sev-vmsa=on")
        done = self.check(capture, secrets, "--expect-memory", digest["memory_sha256"])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["vcpu_states"], 2)

    def test_the_checker_finds_what_is_wrong(self):
        """One bit at each kind of place, and batches that are missing, repeated or exchanged."""
        capture, secrets, digest = self.captured("platform=sev", "backend=model", "memory=4M")
        stream = pathlib.Path(capture).read_bytes()
        frames = list(wire.frames(stream))
        private = [frame for frame in frames if frame.name == "PrivatePages"]
        finish = next(frame for frame in frames if frame.name == "Finish")
        batch, other = private[len(private) // 2], private[len(private) // 2 + 1]
        start = next(frame for frame in frames if frame.name == "PlatformStart")
        headers = batch.offset_of(batch.root.data(3))
        places = {"ciphertext": batch.payload_at + 5, "flags": headers, "IV": headers + 4, "MAC": headers + 20,
                  "gfn": batch.offset_of(batch.root.data(0, 5)), "sequence": batch.offset_of(batch.root.data(2)),
                  "binding": batch.offset_of(batch.root.data(2)) + 8, "seal": finish.offset_of(finish.root.data(1)),
                  "policy": start.offset_of(start.root.data(0)) + 4, "session": start.offset_of(start.root.data(0)) + 2200}
        broken = {}
        for name, place in places.items():
            copy = bytearray(stream)
            copy[place] ^= 1
            broken[name] = bytes(copy)
        first, second = stream[batch.at:batch.end], stream[other.at:other.end]
        broken["a batch missing"] = stream[:batch.at] + stream[batch.end:]
        broken["a batch repeated"] = stream[:batch.end] + first + stream[batch.end:]
        broken["two batches exchanged"] = stream[:batch.at] + second + stream[batch.end:other.at] + first + stream[other.end:]
        for name, bytes_ in broken.items():
            with self.subTest(name):
                pathlib.Path(capture).write_bytes(wire.renumbered(bytes_))
                done = self.check(capture, secrets)
                self.assertEqual(done.returncode, 1, f"{name} was not found")
        pathlib.Path(capture).write_bytes(wire.renumbered(stream))
        self.assertEqual(self.check(capture, secrets, "--expect-memory", digest["memory_sha256"]).returncode, 0)
        self.assertEqual(self.check(capture, secrets, "--expect-memory", "0" * 64).returncode, 1)

    def test_without_the_flag_nothing_secret_is_written(self):
        a, b = self.pair("platform=sev", "backend=model", "memory=4M")
        self.assertEqual(self.start(a, b).returncode, 0)
        self.assertNotIn("pdh-private-key", a.log() + b.log())


if __name__ == "__main__":
    unittest.main()
