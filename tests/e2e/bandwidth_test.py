"""The bandwidth limit of a migration between two processes, and its change while the migration runs."""
import json
import time

from agents import AgentTest

GUEST = ("platform=none", "backend=model", "memory=48M", "workload=idle")
BYTES = 48 << 20


class BandwidthTest(AgentTest):
    def test_a_limit_is_kept(self):
        a, b = self.pair(*GUEST)
        done = self.start(a, b, "--json", "--no-verify", "--bandwidth", "24MiB/s", "--dscp", "10")
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        sent = sum(report["totals"][part] for part in ("shared_bytes", "private_bytes"))
        self.assertGreater(sent, BYTES * 0.5)
        # What leaves is a little more than the pages, and the bucket's 10 ms leave at once.
        self.assertGreater(report["total_ms"], sent / (24 << 20) * 1000 * 0.97)

    def test_the_limit_changes_while_the_migration_runs(self):
        a, b = self.pair(*GUEST)
        refused = self.migrate("set", "--bandwidth", "1Gbit/s", agent=a)
        self.assertEqual(refused.returncode, 3, refused.stderr)
        self.assertIn("has no migration to set the bandwidth of", refused.stderr)
        begun = self.start(a, b, "--detach", "--bandwidth", "1MB/s")  # 50 s
        self.assertEqual(begun.returncode, 0, begun.stderr)
        self.wait_state(a, "migrating")
        self.assertEqual(self.json("status", agent=a)["bandwidth_bytes_per_s"], 1_000_000)
        wrong = self.migrate("set", "--bandwidth", "fast", agent=a)
        self.assertIn("'fast' is no bandwidth", wrong.stderr)
        before = time.monotonic()
        changed = self.migrate("set", "--bandwidth", "off", agent=a)
        self.assertEqual(changed.returncode, 0, changed.stderr)
        self.wait_state(b, "running")
        self.assertLess(time.monotonic() - before, 20)
        self.assert_same_digests(a, b)
        self.assert_runs_and_is_whole(b)

    def test_a_cancel_does_not_wait_for_the_limit(self):
        a, b = self.pair(*GUEST)
        self.assertEqual(self.start(a, b, "--detach", "--bandwidth", "64KiB/s").returncode, 0)  # 13 minutes
        self.wait_state(a, "migrating")
        self.assertEqual(self.migrate("cancel", agent=a).returncode, 0)
        self.wait_state(a, "running")
        self.assert_runs_and_is_whole(a)
