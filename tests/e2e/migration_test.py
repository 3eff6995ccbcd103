"""Migrations between two processes that work."""
import json
import os
import pathlib
import signal
import subprocess
import unittest

from agents import AGENT, BIN, LIMIT_S, MIGRATE, AgentTest


class MigrationTest(AgentTest):
    def test_model_sev(self):
        self.move("platform=sev", "backend=model", "memory=16M", "vcpus=2", source=("workload=flipstorm",))

    def test_model_none(self):
        self.move("platform=none", "backend=model", "memory=16M", source=("workload=random",))

    def test_report_has_every_part(self):
        # An idle guest: about a quarter of its pages were cleared at boot and stay zero.
        a, b = self.pair("platform=sev", "backend=model", "memory=16M", source=("workload=idle", "shared=20"))
        done = self.start(a, b, "--json")
        report = json.loads(done.stdout)
        totals, down = report["totals"], report["downtime"]
        self.assertEqual(report["outcome"], "done")
        self.assertEqual(totals["firmware_exports"], totals["private_pages"])
        self.assertGreater(totals["zero_pages"], 0)
        self.assertTrue(report["rounds"][-1]["guest_paused"])
        parts = {part["part"]: part["ms"] for part in down["parts"]}
        self.assertEqual(list(parts), ["pause", "last harvest", "last pages", "vCPU and device state", "firmware finish",
                                       "hand-over", "resume", "link and waiting"])
        self.assertAlmostEqual(sum(parts.values()), down["total_ms"], places=3)
        self.assertGreater(min(parts.values()), 0, "every part was measured")
        self.assertLess(abs(report["rounds"][-1]["total_ms"] - parts["last harvest"] - parts["last pages"]), 5)
        # What was expected stands beside what came.
        self.assertGreaterEqual(report["prediction"]["downtime_ms"], 0)
        self.assertGreater(report["prediction"]["total_low_ms"], 0)
        self.assertIn("budget", report["prediction"]["why"])
        # Progress on stderr: one JSON object a line when it is no terminal.
        for line in done.stderr.splitlines():
            self.assertIn("phase", json.loads(line))

    def test_image_arrives(self):
        image = pathlib.Path(self.work, "image")
        image.write_bytes(os.urandom(3 << 20))
        self.move("platform=sev", "backend=model", "memory=16M", source=(f"image={image}",))

    def test_capture_is_printed_in_words(self):
        capture = f"{self.work}/stream"
        self.move("platform=sev", "backend=model", "memory=8M", source=("--capture", capture))
        dump = subprocess.run([BIN / "migrate-dump" / "migrate-dump", capture], capture_output=True, text=True,
                              timeout=LIMIT_S, check=False)
        self.assertEqual(dump.returncode, 0, dump.stderr)
        for word in ("Hello", "SessionStart", "PlatformStart", "Conversions", "SharedPages", "PrivatePages", "EpochEnd",
                     "VcpuState", "Finish", "Handover"):
            self.assertIn(word, dump.stdout)
        self.assertEqual(os.stat(capture).st_mode & 0o777, 0o600)

    def test_guest_file_and_words(self):
        path = pathlib.Path(self.work, "guest.toml")
        path.write_text('[guest]\nplatform = "sev"\nbackend = "model"\nmemory = "8M"\nseed = 7\n', encoding="utf-8")
        a = self.agent("A", "source", "--guest-file", str(path), "workload=idle")
        guest = self.json("status", agent=a)["guest"]
        self.assertEqual((guest["seed"], guest["memory_bytes"], guest["workload"]), (7, 8 << 20, "idle"))

    def test_unix_sockets(self):
        guest = ("platform=sev", "backend=model", "memory=8M")
        a = self.agent("A", "source", *guest, certs="", control=f"unix:{self.work}/a.sock")
        b = self.agent("B", "destination", *guest, certs="", control=f"unix:{self.work}/b.sock",
                       listen=f"unix:{self.work}/m.sock")
        done = self.start(a, b)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same_digests(a, b)

    def test_there_and_on_to_a_third(self):
        guest = ("platform=sev", "backend=model", "memory=8M")
        a, b = self.pair(*guest)
        self.assertEqual(self.start(a, b).returncode, 0)
        c = self.agent("C", "destination", *guest)
        done = self.start(b, c)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same_digests(b, c)
        self.assert_runs_and_is_whole(c)

    def test_an_idle_guests_memory_does_not_change(self):
        a, b = self.pair("platform=sev", "backend=model", "memory=8M", source=("workload=idle",))
        before = self.json("digest", "--at", "now", agent=a)
        self.assertEqual(self.start(a, b).returncode, 0)
        after = self.json("digest", "--at", "now", agent=b)
        self.assertEqual(before["page_map_sha256"], after["page_map_sha256"])

    def test_detach_and_watch(self):
        a, b = self.pair("platform=sev", "backend=model", "memory=16M")
        done = self.start(a, b, "--detach")
        self.assertEqual(done.returncode, 0, done.stderr)
        watched = self.migrate("watch", "--json", agent=a)
        self.assertEqual(watched.returncode, 0, watched.stderr)
        self.assertEqual(json.loads(watched.stdout.splitlines()[-1])["outcome"], "done")
        self.assert_same_digests(a, b)

    def test_check_moves_nothing(self):
        a, b = self.pair("platform=sev", "backend=model", "memory=8M")
        done = self.migrate("check", "--to", b.listen, agent=a)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("would be accepted", done.stdout)
        self.assert_runs_and_is_whole(a)
        self.assertEqual(self.json("status", agent=b)["state"], "empty")

    def test_without_verify_there_is_no_digest_of_the_handover(self):
        a, b = self.pair("platform=sev", "backend=model", "memory=8M")
        self.assertEqual(self.start(a, b, "--no-verify").returncode, 0)
        done = self.migrate("digest", "--at", "handover", agent=b)
        self.assert_one_clear_sentence(done, 3, "B has no digest of a hand-over")
        self.assert_runs_and_is_whole(b)

    def test_help_names_every_option_and_exit_code(self):
        helped = subprocess.run([MIGRATE, "--help"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        self.assertEqual(helped.returncode, 0)
        for word in ("check", "start", "status", "watch", "cancel", "digest", "certs", "Exit codes", "in doubt"):
            self.assertIn(word, helped.stdout)
        helped = subprocess.run([AGENT, "--help"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        for word in ("platform=", "backend=", "memory=", "vcpus=", "workload=", "seed=", "image=", "flipstorm"):
            self.assertIn(word, helped.stdout)


class CancelTest(AgentTest):
    GUEST = ("platform=sev", "backend=model", "memory=64M", "workload=flipstorm")

    def test_ctrl_c_cancels_and_says_so(self):
        a, b = self.pair(*self.GUEST)
        with subprocess.Popen([MIGRATE, "start", "--agent", a.control, "--certs", f"{self.certs}/op", "--to", b.listen,
                               "--rounds-max", "1000", "--downtime-ms", "0"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as command:
            self.wait_state(a, "migrating")
            self.wait_sending(a)
            command.send_signal(signal.SIGINT)
            out, err = command.communicate(timeout=LIMIT_S)
        self.assertEqual(command.returncode, 5, err)
        self.assertIn("interrupted: cancelling", err)
        self.assertIn("cancelled by the operator", out + err)
        self.assert_runs_and_is_whole(a)
        self.wait_state(b, "empty")
        # And again: nothing was left behind.
        done = self.start(a, b)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same_digests(a, b)

    def test_cancel_without_a_migration(self):
        a, _ = self.pair(*self.GUEST)
        self.assert_one_clear_sentence(self.migrate("cancel", agent=a), 3, "A has no migration to cancel")

    def test_cancel_from_the_destination(self):
        a, b = self.pair(*self.GUEST)
        self.start(a, b, "--detach", "--rounds-max", "1000", "--downtime-ms", "0")
        self.wait_sending(a)
        self.wait_state(b, "receiving")
        self.assertEqual(self.migrate("cancel", agent=b).returncode, 0)
        watched = self.migrate("watch", "--json", agent=a)
        self.assertEqual(watched.returncode, 5, watched.stdout[-300:])
        self.assert_runs_and_is_whole(a)

    def test_time_limit(self):
        a, b = self.pair(*self.GUEST)
        done = self.start(a, b, "--rounds-max", "1000", "--downtime-ms", "0", "--timeout-ms", "300")
        self.assertEqual(done.returncode, 4, done.stderr[-300:])
        self.assertIn("the time limit passed", done.stderr)
        self.assert_runs_and_is_whole(a)

    def test_the_time_limit_may_force_the_pause(self):
        a, b = self.pair(*self.GUEST)
        done = self.start(a, b, "--rounds-max", "1000", "--downtime-ms", "0", "--timeout-ms", "300", "--on-timeout", "force")
        self.assertEqual(done.returncode, 0, done.stderr[-300:])
        self.assertRegex(done.stdout, "paused because the time limit passed, last pages would take .* against a budget")
        self.assert_runs_and_is_whole(b)

    def test_gives_up_when_it_does_not_converge(self):
        a, b = self.pair(*self.GUEST)
        done = self.start(a, b, "--rounds-max", "2", "--downtime-ms", "0", "--on-stall", "cancel")
        self.assertEqual(done.returncode, 1, done.stderr[-300:])
        self.assertIn("the guest dirtied", done.stderr)
        self.assert_runs_and_is_whole(a)


if __name__ == "__main__":
    unittest.main()
