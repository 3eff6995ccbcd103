"""Agents under a lock manager: a real etcd says who may run the guest when a host cannot be asked."""
import signal
import subprocess
import threading
import time
import unittest

import etcd
from agents import LIMIT_S, MIGRATE, AgentTest
from relay import FrameRelay, Network

TTL_S = 4
GUEST = ("platform=sev", "backend=model", "memory=16M", "--insecure-plain-tcp")


@unittest.skipIf(etcd.missing(), etcd.missing())
class LockTest(AgentTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        done = subprocess.run([MIGRATE, "certs", "--dir", f"{cls.work}/lock", "--host", "etcd", "--host", "agent", "--name",
                               "localhost", "--name", "127.0.0.1"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def setUp(self):
        super().setUp()
        self.relays = []
        self.etcd = etcd.Etcd(f"{self.work}/lock")

    def tearDown(self):
        self.etcd.thaw()
        for relay in self.relays:
            relay.close()
        super().tearDown()
        self.etcd.close()

    def locked(self, name, role, *arguments, port=None):
        url = self.etcd.url if port is None else f"https://127.0.0.1:{port}"
        return self.agent(name, role, *GUEST, "--journal", f"{self.work}/{self.id()}-{name}-{role}", "--no-inquiry", "--lock",
                          f"etcd={url}", "--lock-certs", f"{self.work}/lock/agent", "--lock-ttl-s", str(TTL_S),
                          *arguments, certs="")

    def source(self, *arguments, **how):
        return self.locked("A", "source", "workload=sweep", "name=web-1", *arguments, **how)

    def migrate(self, *arguments, agent=None, certs=False, timeout=LIMIT_S):
        return super().migrate(*arguments, agent=agent, certs=certs, timeout=timeout)

    def status(self, agent):
        return self.json("status", agent=agent)

    def steps(self, agent):
        return self.status(agent)["vm"]["steps"]

    def assert_runs(self, agent):
        before = self.steps(agent)
        deadline = time.monotonic() + LIMIT_S
        while self.steps(agent) == before:
            self.assertLess(time.monotonic(), deadline, "the guest does not count on")
        self.assert_runs_and_is_whole(agent)

    def assert_stands(self, agent, for_s=1.0):
        """The guest's own count does not move."""
        before = self.steps(agent)
        time.sleep(for_s)  # tidy: allow: that nothing happens can only be watched
        self.assertEqual(self.steps(agent), before, f"the guest of {agent.name} runs")

    def assert_right(self, owner, generation, holder):
        right, held_by = self.etcd.right("web-1")
        self.assertEqual((right["owner"], right["generation"], held_by), (owner, generation, holder), right)

    def wait_fenced(self, agent):
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            status = self.status(agent)
            if (status["state"], status["vm"]["state"]) == ("fenced", "paused"):
                return status
        self.fail(f"{agent.name} is not fenced: {status}")
        return None

    def wait_lost(self, agent, whose):
        deadline = time.monotonic() + LIMIT_S
        while (status := self.status(agent))["lock"]["state"] != "lost":
            self.assertLess(time.monotonic(), deadline, status)
        self.assertIn(whose, status["lock"]["reason"])
        self.assertEqual((status["state"], status["vm"]["state"]), ("fenced", "paused"), status)

    def cut(self, before, dies=None):
        a, b = self.source(), self.locked("B", "destination")
        victim = {"A": a, "B": b}.get(dies)
        relay = FrameRelay(b.listen, before, victim.kill if victim else lambda: None)
        self.relays.append(relay)
        self.migrate("start", "--to", relay.address, agent=a)
        return a, b

    def test_a_migration_moves_the_generation(self):
        a, b = self.source(), self.locked("B", "destination")
        self.assert_right("A", 0, "A")
        self.assertEqual(self.status(a)["lock"]["state"], "held")
        done = self.start(a, b)
        self.assertEqual(done.returncode, 0, done.stderr + a.log() + b.log())
        self.assert_right("B", 1, "B")
        self.assert_runs(b)
        self.assert_stands(a)
        lock = self.status(b)["lock"]
        self.assertEqual((lock["state"], lock["generation"]), ("held", 1))
        self.assertGreater(lock["run_left_ms"], 0)
        self.assertEqual(self.status(a)["lock"]["state"], "none")
        self.assertIn("lock manager: etcd at", self.migrate("status", agent=b).stdout)
        c = self.locked("C", "destination")
        self.assertEqual(self.migrate("start", "--to", c.listen, agent=b).returncode, 0, b.log() + c.log())
        self.assert_right("C", 2, "C")
        c.stop()  # and with it the guest: nobody has it now
        self.assert_right("", 2, None)

    def test_a_holder_that_cannot_renew_stands_before_its_lease_ends(self):
        a = self.source()
        self.assert_runs(a)
        self.etcd.freeze()
        frozen = time.monotonic()
        status = self.wait_fenced(a)
        stood = time.monotonic() - frozen
        self.assertEqual(status["lock"]["state"], "fenced", status)
        self.assertIn("could not be renewed in time", status["lock"]["reason"])
        # Of the last renewal the lease has TTL_S; it was sent before the freeze.
        self.assertLess(stood, TTL_S)
        self.assert_stands(a)
        self.etcd.thaw()
        self.wait_state(a, "running")
        self.assert_runs(a)
        self.assert_right("A", 0, "A")

    def test_a_stopped_process_finds_its_time_up_and_a_successor_in_its_place(self):
        a = self.source()
        self.assert_runs(a)
        began, first = time.monotonic(), self.steps(a)
        time.sleep(0.5)  # tidy: allow: how fast it counts
        before = self.steps(a)
        rate = (before - first) / (time.monotonic() - began)
        a.process.send_signal(signal.SIGSTOP)
        with self.assertRaisesRegex(RuntimeError, "--lock-take-over"):  # its lease first, then a person
            self.locked("C", "source", "name=web-1")
        c = self.locked("C", "source", "name=web-1", "--lock-take-over")
        self.assert_right("C", 1, "C")
        a.process.send_signal(signal.SIGCONT)
        self.wait_lost(a, "C, generation 1")
        # What it counted on since lies between the question and the signal.
        self.assertLess((self.steps(a) - before) / rate, 0.3)
        self.assert_stands(a)
        self.assert_runs(c)

    def test_a_parted_holder_stands_before_its_successor_runs(self):
        network = Network(int(self.etcd.url.rsplit(":", 1)[1]))
        self.relays.append(network)
        a = self.source(port=network.own_port)
        self.assert_runs(a)
        network.part()
        stood = []
        watcher = threading.Thread(target=lambda: stood.append((self.wait_fenced(a), time.monotonic())))
        watcher.start()
        c = self.locked("C", "source", "name=web-1", "--lock-take-over")  # waits for the lease to end
        taken = time.monotonic()
        watcher.join()
        self.assertLess(stood[0][1], taken)
        self.assert_stands(a)
        self.assert_runs(c)
        network.heal()
        self.wait_lost(a, "C, generation 1")
        self.assert_stands(a)

    def test_a_handover_that_is_lost_is_settled_by_the_destination(self):
        a, b = self.cut("Handover")
        self.wait_state(b, "running")
        self.assert_runs(b)
        self.wait_state(a, "handed-over")
        self.assert_stands(a)
        self.assert_right("B", 1, "B")

    def test_the_source_dies_at_the_handover(self):
        _, b = self.cut("Handover", dies="A")
        self.wait_state(b, "running")
        self.assert_runs(b)
        self.assert_right("B", 1, "B")
        again = self.source()  # restarted: it is not launched again, before or after that is settled
        self.assertEqual(self.status(again)["state"], "unsettled")
        self.assertEqual(self.migrate("recover", "--peer", b.control, "--apply", agent=again).returncode, 0)
        again.stop()
        self.assertNotIn("vm", self.status(self.source()))
        self.assert_right("B", 1, "B")

    def test_the_destination_dies_before_it_takes(self):
        a, _ = self.cut("Handover", dies="B")
        self.wait_state(a, "running")
        self.assert_runs(a)
        self.assert_right("A", 1, "A")
        # The next migration starts from the new generation.
        c = self.locked("C", "destination")
        self.assertEqual(self.migrate("start", "--to", c.listen, agent=a).returncode, 0, a.log() + c.log())
        self.assert_right("C", 2, "C")

    def test_running_lost(self):
        a, b = self.cut("Running")
        self.wait_state(a, "handed-over")
        self.assert_runs(b)
        self.assert_stands(a)

    def test_ready_lost_leaves_the_source_in_its_generation(self):
        a, b = self.cut("Ready")
        self.wait_state(b, "holding")
        self.assert_runs(a)
        self.assert_right("A", 0, "A")
        a.kill()  # its lease ends; but what it did after the pause nobody knows
        deadline = time.monotonic() + 2 * TTL_S
        while time.monotonic() < deadline:
            self.assertEqual(self.status(b)["state"], "holding")
        code = self.migrate("recover", "--decide", "run destination", agent=b)
        self.assertEqual(code.returncode, 0, code.stderr)
        self.assert_right("B", 1, "B")
        self.assert_runs(b)

    def test_a_person_cannot_run_what_a_lease_keeps(self):
        a, b = self.cut("Ready")
        self.wait_state(b, "holding")
        done = self.migrate("recover", "--decide", "run destination", agent=b)
        self.assertEqual(done.returncode, 3, done.stdout)
        self.assertIn("a lease that lives", done.stderr)
        self.assertEqual(self.status(b)["state"], "holding")
        self.assert_runs(a)

    def test_only_one_may_launch_it(self):
        self.source()
        with self.assertRaisesRegex(RuntimeError, "A, generation 0 has it under a lease that lives"):
            self.locked("C", "source", "name=web-1", "--lock-take-over")

    def test_a_restarted_host_launches_its_guest_in_a_generation_of_its_own(self):
        a = self.source()
        a.kill()
        again = self.source()  # waits for the lease of the process before it
        self.assert_right("A", 1, "A")
        self.assert_runs(again)

    def test_refusals(self):
        a = self.source()
        b = self.agent("B", "destination", *GUEST, "--journal", f"{self.work}/{self.id()}-b", certs="")
        done = self.start(a, b)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("A runs its guests under a lock manager's leases and B does not", done.stderr)
        same = self.locked("A", "destination", "--lock-prefix", "/elsewhere")
        done = self.migrate("start", "--to", same.listen, agent=a)
        self.assertIn("a name of its own", done.stderr)
        elsewhere = self.locked("D", "destination", "--lock-prefix", "/elsewhere")
        done = self.migrate("start", "--to", elsewhere.listen, agent=a)
        self.assertIn("gives it to nobody it knows", done.stderr)
        self.assert_runs(a)
        with self.assertRaisesRegex(RuntimeError, "--journal DIR"):
            self.agent("E", "source", *GUEST, "--lock", f"etcd={self.etcd.url}", certs="")

    def test_a_migration_saves_a_guest_whose_host_lost_the_lock_manager(self):
        a, b = self.source(), self.locked("B", "destination")
        self.etcd.freeze()
        self.wait_fenced(a)
        done = self.start(a, b)
        self.assertNotEqual(done.returncode, 0)  # nothing moves while nobody can be asked
        self.etcd.thaw()
        self.wait_state(a, "running")
        self.assertEqual(self.start(a, b).returncode, 0, a.log() + b.log())
        self.assert_right("B", 1, "B")


if __name__ == "__main__":
    unittest.main()
