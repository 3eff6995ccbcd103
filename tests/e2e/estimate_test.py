"""What `migrate estimate` says of a running guest, and that it leaves nothing behind."""
import unittest

from agents import AgentTest


class EstimateTest(AgentTest):
    def estimate(self, agent, *options, code=0):
        done = self.migrate("estimate", "--observe-ms", "1000", *options, agent=agent)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def test_an_idle_guest_converges_and_the_migration_agrees(self):
        a, b = self.pair("platform=sev", "backend=model", "memory=32M", source=("workload=idle", "shared=20"))
        seen = self.json("estimate", "--observe-ms", "500", "--link-mib-s", "500", "--firmware-pages-s", "20000", agent=a)
        self.assertTrue(seen["converges"], seen)
        self.assertEqual(seen["shared_pages"] + seen["private_pages"], 8192)
        self.assertGreaterEqual(seen["zero_share"], 0)
        self.assertEqual((seen["link_mib_per_s"], seen["link_from"]), (500, "as given"))
        self.assertLess(seen["downtime_ms"], 300)
        # Nothing is left: the guest is as it was, and a migration begins as if nobody had looked.
        self.assertEqual(self.json("status", agent=a)["state"], "running")
        done = self.start(a, b)
        self.assertEqual(done.returncode, 0, done.stderr[-300:])
        self.assert_same_digests(a, b)
        report = self.json("status", agent=a)["report"]
        self.assertLessEqual(report["totals"]["firmware_exports"], 1.1 * seen["firmware_exports_max"] + 64)
        self.assert_runs_and_is_whole(b)

    def test_a_guest_that_outruns_the_firmware_cannot_converge(self):
        a = self.agent("A", "source", "platform=sev", "backend=model", "memory=32M", "workload=random", "flips=0")
        done = self.estimate(a, "--link-mib-s", "500", code=1)
        self.assertIn("it cannot converge because", done.stdout)
        self.assertIn("firmware 400 pages/s as others measured AMD's firmware", done.stdout)
        self.assert_runs_and_is_whole(a)

    def test_it_asks_for_what_it_cannot_know(self):
        a = self.agent("A", "source", "platform=none", "backend=model", "memory=8M", "workload=idle")
        self.assert_one_clear_sentence(self.estimate(a, code=2), 2, "the speed of the link is not known")
        b = self.agent("B", "destination", "platform=none", "backend=model", "memory=8M")
        self.assert_one_clear_sentence(self.estimate(b, "--link-mib-s", "500", code=3), 3, "no running guest")


if __name__ == "__main__":
    unittest.main()
