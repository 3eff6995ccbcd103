"""Migrations between two processes of guests on the real /dev/kvm; skipped with the reason where it is not usable."""
import json
import os
import pathlib
import time

from agents import LIMIT_S, AgentTest, unittest
from relay import Relay

BOOT_SECTORS = pathlib.Path(os.environ["SEALIFT_BOOT_SECTORS"])


class KvmTest(AgentTest):
    def setUp(self):
        super().setUp()
        probe = self.agent("probe", "destination", "memory=4M", "backend=auto")
        reason = self.json("status", agent=probe)["backend_reason"]
        if not reason.startswith("kvm:"):
            self.skipTest(reason)

    def test_every_way_to_track_writes(self):
        """The guest checks its memory and its general, XMM and control registers against each other after the move."""
        for vcpus in (1, 2):
            for dirty in ("log", "manual", "ring"):
                with self.subTest(vcpus=vcpus, dirty=dirty):
                    a, b, _ = self.move("platform=sev", "backend=kvm", "memory=16M", f"vcpus={vcpus}", f"dirty={dirty}",
                                        source=("workload=hotset",))
                    self.assertEqual(self.json("status", agent=a)["vm"]["dirty_backend"], dirty)
                    self.assertEqual(self.json("status", agent=b)["vm"].get("notes", []), [])

    def test_writes_tracked_by_userfaultfd(self):
        a, b = self.agent_or_skip("A", "source", "backend=kvm", "memory=16M", "dirty=uffd", "workload=sweep"), \
            self.agent("B", "destination", "backend=kvm", "memory=16M")
        done = self.start(a, b)
        if done.returncode != 0 and "userfaultfd" in done.stderr:
            self.skipTest(done.stderr)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same_digests(a, b)
        self.assert_runs_and_is_whole(b)

    def agent_or_skip(self, *arguments):
        try:
            return self.agent(*arguments)
        except RuntimeError as error:
            if "userfaultfd" in str(error) or "uffd" in str(error):
                self.skipTest(str(error))
            raise

    def test_none(self):
        self.move("platform=none", "backend=kvm", "memory=16M", source=("workload=sweep",))

    def test_flipstorm_under_the_older_hypercall(self):
        self.move("platform=sev", "backend=kvm", "memory=16M", "hypercall=page-enc-status",
                  source=("workload=flipstorm",))

    def printed(self, name):
        path = pathlib.Path(self.work) / name
        return path.read_text(encoding="ascii") if path.exists() else ""

    def wait_printed(self, name, count):
        deadline = time.monotonic() + LIMIT_S
        while len(self.printed(name)) < count:
            self.assertLess(time.monotonic(), deadline, f"{name}: {self.printed(name)!r}")

    def test_a_boot_sector_goes_on_counting(self):
        guest = ("backend=kvm", "memory=16M", f"boot-sector={BOOT_SECTORS}/page_counter.bin")
        a = self.agent("A", "source", *guest, f"serial={self.work}/serial-a")
        b = self.agent("B", "destination", *guest, f"serial={self.work}/serial-b")
        self.wait_printed("serial-a", 2)
        done = self.start(a, b)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same_digests(a, b)
        self.wait_printed("serial-b", 3)
        self.assertEqual(self.printed("serial-a").strip("B"), "A")  # '!' is a byte that broke the row
        self.assertEqual(self.printed("serial-b").strip("B"), "")
        refused = self.migrate("verify", agent=b)
        self.assert_one_clear_sentence(refused, 3, "boot-sector", "checker")

    def test_a_guest_that_ends_while_it_is_sent(self):
        """A flat binary that runs for a while and then halts for good: its migration ends cleanly, with the reason."""
        program = pathlib.Path(self.work) / "short.bin"
        # mov ecx, COUNT; again: add [0x8000], al; loopd again; hlt
        count = 1_200_000
        program.write_bytes(b"\x66\xb9" + count.to_bytes(4, "little") + b"\x00\x06\x00\x80" + b"\x67\xe2\xf9\xf4")
        guest = ("backend=kvm", "memory=64M", f"flat-binary={program}")
        a, b = self.pair(*guest)
        relay = Relay(b.listen, drip=16384)
        self.addCleanup(relay.close)
        self.assertEqual(self.migrate("start", "--to", relay.address, "--detach", agent=a).returncode, 0)
        done = self.migrate("watch", agent=a)
        self.assertEqual(done.returncode, 11, done.stderr)
        self.assertIn("the guest terminated: vCPU 0", done.stderr + done.stdout)
        self.assertIn("HLT", done.stderr + done.stdout)
        relay.open()
        status = self.json("status", agent=a)
        self.assertEqual((status["state"], status["vm"]["state"]), ("terminated", "terminated"), status)
        self.assertIn("HLT", status["vm"]["reason"])
        self.wait_state(b, "empty")
        again = self.start(a, b)
        self.assert_one_clear_sentence(again, 3, "has terminated", "HLT")

    def test_an_idle_guest_pauses_for_ten_milliseconds_at_most(self):
        """1 GiB over loopback TLS. The best of three: other work on this machine lengthens any of them."""
        seen = []
        for _ in range(3):
            _, _, done = self.move("platform=none", "backend=kvm", "memory=1G", source=("workload=idle",), options=("--json",))
            down = json.loads(done.stdout)["downtime"]
            self.assertAlmostEqual(sum(part["ms"] for part in down["parts"]), down["total_ms"], places=3)
            seen.append(down)
            if down["total_ms"] <= 10:
                break
            for agent in self.agents:
                agent.stop()
            self.agents.clear()
        self.assertLessEqual(min(down["total_ms"] for down in seen), 10, seen)

    def test_a_guest_that_writes_too_fast_is_held_back(self):
        """With no downtime allowed a guest that writes never converges; what was forced on it ends with the migration."""
        for limit, held_back in (("60", True), ("0", False)):
            a, b, _ = self.move("platform=sev", "backend=kvm", "memory=32M", source=("workload=random", "flips=0"),
                                options=("--downtime-ms", "0", "--throttle-max", limit))
            percents = [one["throttle_percent"] for one in self.json("status", agent=a)["report"]["rounds"]]
            self.assertEqual(percents, sorted(percents))
            self.assertEqual(max(percents) >= 20, held_back, percents)
            self.assertLessEqual(max(percents), int(limit))
            self.assertNotIn("throttle_percent", self.json("status", agent=b)["vm"])


if __name__ == "__main__":
    unittest.main()
