"""Migrations that do not end, and how the journals settle them: the guest runs once, wherever it may."""
import json
import pathlib
import subprocess
import unittest

from agents import BIN, LIMIT_S, AgentTest
from relay import FrameRelay

GUEST = ("platform=sev", "backend=model", "memory=16M", "--insecure-plain-tcp")


class RecoverTest(AgentTest):
    def setUp(self):
        super().setUp()
        self.relays = []

    def tearDown(self):
        for relay in self.relays:
            relay.close()
        super().tearDown()

    def journal(self, name):
        path = pathlib.Path(self.work, self.id(), name)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return ("--journal", str(path), "--no-inquiry")  # an operator settles

    def journaled(self, name, role, *arguments):
        return self.agent(name, role, *GUEST, *self.journal(name), *arguments, certs="")

    def migrate(self, *arguments, agent=None, certs=False, timeout=LIMIT_S):
        return super().migrate(*arguments, agent=agent, certs=certs, timeout=timeout)

    def cut(self, before, *options):
        """A migration whose link is lost before the record arrives."""
        a = self.journaled("A", "source", "workload=flipstorm", "name=web-1")
        b = self.journaled("B", "destination")
        relay = FrameRelay(b.listen, before)
        self.relays.append(relay)
        done = self.migrate("start", "--to", relay.address, *options, agent=a)
        return a, b, done.returncode

    def recover(self, agent, peer=None, *options):
        peers = ("--peer", peer.control) if peer is not None else ()
        done = self.migrate("recover", *peers, "--json", *options, agent=agent)
        return done.returncode, json.loads(done.stdout) if done.returncode in (0, 7) else done.stderr

    def state(self, agent):
        return self.json("status", agent=agent)["state"]

    def assert_one_runs(self, runs, other, other_state):
        self.assertEqual(self.state(other), other_state)
        self.assert_runs_and_is_whole(runs)
        code, answer = self.recover(runs, other)
        self.assertEqual((code, answer["applied"]), (0, False), answer)

    def test_handover_lost_both_alive(self):
        a, b, code = self.cut("Handover")
        self.assertEqual(code, 7)
        self.assertEqual((self.state(a), self.wait_state(b, "holding")["state"]), ("in-doubt", "holding"))
        code, answer = self.recover(a, b)
        self.assertEqual((code, answer["verdict"], answer["applied"]), (0, "run destination", False), answer)
        self.assertEqual((answer["guest"], answer["source"]["name"], answer["generation"]), ("web-1", "A", 0))
        self.assertEqual((self.state(a), self.state(b)), ("in-doubt", "holding"))  # asking changes nothing
        code, answer = self.recover(b, a, "--apply")  # from either side
        self.assertEqual((code, answer["applied"]), (0, True), answer)
        self.assert_one_runs(b, a, "handed-over")

    def test_running_lost(self):
        a, b, code = self.cut("Running")
        self.assertEqual(code, 7)
        self.wait_state(b, "running")
        code, answer = self.recover(a, b, "--apply")
        self.assertEqual((code, answer["verdict"]), (0, "run destination"), answer)
        self.assert_one_runs(b, a, "handed-over")

    def test_ready_lost(self):
        a, b, code = self.cut("Ready")
        self.assertEqual(code, 1)
        self.wait_state(b, "holding")
        self.assert_runs_and_is_whole(a)
        code, answer = self.recover(a, b, "--apply")
        self.assertEqual((code, answer["verdict"]), (0, "run source"), answer)
        self.assert_one_runs(a, b, "empty")
        # The destination takes the guest at the next try, in the same generation.
        self.assertEqual(self.migrate("start", "--to", b.listen, agent=a).returncode, 0)
        self.assertEqual(self.recover(b, a)[1]["generation"], 0)

    def test_source_dies_in_doubt_and_the_destination_holds(self):
        a, b, _ = self.cut("Handover")
        self.wait_state(b, "holding")
        a.kill()
        code, answer = self.recover(b)
        self.assertEqual((code, answer["verdict"]), (7, "needs a human"), answer)
        again = self.journaled("A", "source", "name=web-1")
        self.assertEqual(self.state(again), "unsettled")  # and no second guest was launched
        self.assertNotIn("vm", self.json("status", agent=again))
        code, answer = self.recover(again, b, "--apply")
        self.assertEqual((code, answer["verdict"]), (0, "run destination"), answer)
        self.assertEqual(self.state(again), "empty")
        self.assert_runs_and_is_whole(b)

    def test_destination_dies_holding(self):
        a, b, _ = self.cut("Handover")
        self.wait_state(b, "holding")
        b.kill()
        code, answer = self.recover(a, b)
        self.assertEqual((code, answer["verdict"]), (7, "needs a human"), answer)
        again = self.journaled("B", "destination")
        code, answer = self.recover(a, again, "--apply")
        self.assertEqual((code, answer["verdict"]), (0, "run source"), answer)
        self.assert_one_runs(a, again, "empty")
        self.assertEqual(self.migrate("start", "--to", again.listen, agent=a).returncode, 0)
        self.assert_runs_and_is_whole(again)

    def test_a_human_decides_about_a_dead_destination(self):
        a, b, _ = self.cut("Handover")
        self.wait_state(b, "holding")
        b.kill()
        code, answer = self.recover(a, b, "--apply")  # nothing to apply without an answer
        self.assertEqual((code, answer["applied"], self.state(a)), (7, False, "in-doubt"), answer)
        code, answer = self.recover(a, b, "--decide", "run source")
        self.assertEqual((code, answer["applied"]), (0, True), answer)
        self.assert_runs_and_is_whole(a)

    def test_a_guest_that_is_lost_is_forgotten_by_a_human_only(self):
        a, b, _ = self.cut("Handover")
        self.wait_state(b, "holding")
        a.kill()
        b.kill()
        again = self.journaled("A", "source", "name=web-1")
        back = self.journaled("B", "destination")
        code, answer = self.recover(again, back)
        self.assertEqual((code, answer["verdict"]), (7, "needs a human"), answer)
        self.assertIn("lost", answer["reason"])
        self.assertEqual(self.recover(again, back, "--decide", "forget")[0], 0)
        self.assertEqual(self.state(again), "empty")
        self.assertEqual(self.state(self.journaled_anew(again)), "running")

    def journaled_anew(self, agent):
        agent.stop()
        return self.journaled("A", "source", "name=web-1")

    def test_generations_grow_and_journals_can_be_read(self):
        a = self.journaled("A", "source", "name=web-1", "workload=sweep")
        b = self.journaled("B", "destination")
        self.assertEqual(self.migrate("start", "--to", b.listen, agent=a).returncode, 0)
        c = self.journaled("C", "destination")
        self.assertEqual(self.migrate("start", "--to", c.listen, agent=b).returncode, 0)
        code, answer = self.recover(b, c)
        self.assertEqual((code, answer["generation"], answer["guest"]), (0, 1, "web-1"), answer)
        c.kill()  # the journal of a crashed agent is readable
        path = pathlib.Path(self.work, self.id(), "C", "web-1.journal")
        dump = subprocess.run([BIN / "migrate-dump" / "migrate-dump", path], capture_output=True, text=True,
                              timeout=LIMIT_S, check=False)
        self.assertEqual(dump.returncode, 0, dump.stderr)
        for word in ("Offered", "Ready", "Taken", "generation 1"):
            self.assertIn(word, dump.stdout)

    def test_without_a_journal(self):
        a = self.agent("A", "source", *GUEST, certs="")
        done = self.migrate("recover", agent=a)
        self.assertEqual(done.returncode, 3)
        self.assertIn("keeps no journal", done.stderr)

    def test_two_agents_cannot_use_one_journal(self):
        self.journaled("A", "source", "name=web-1", "workload=idle")
        b = self.journaled("B", "destination")
        self.assertEqual(self.migrate("start", "--to", b.listen, agent=self.agents[0]).returncode, 0)
        with self.assertRaisesRegex(RuntimeError, "lock|uses"):
            self.agent("A", "source", *GUEST, *self.journal("A"), "name=web-1", certs="")


if __name__ == "__main__":
    unittest.main()
