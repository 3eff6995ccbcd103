"""Migrations that do not end, and agents that settle them by themselves once they can reach each other."""
import ctypes
import json
import pathlib
import shutil
import subprocess
import time
import unittest

from agents import BIN, LIMIT_S, AgentTest
from relay import HealingRelay, JournalRelay

GUEST = ("platform=sev", "backend=model", "memory=16M")
SETTLED_S = 10  # after the link has healed; the pauses between questions are at most 15 s, and begin with 0.25 s


class InquiryTest(AgentTest):
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
        return path

    def journaled(self, name, role, *arguments, certs=""):
        plain = () if certs is None else ("--insecure-plain-tcp",)
        return self.agent(name, role, *GUEST, *plain, "--journal", str(self.journal(name)), *arguments, certs=certs)

    def state(self, agent):
        return self.json("status", agent=agent)["state"]

    def records(self, name):
        """The kinds in a journal, as migrate-dump reads them, and all it says."""
        dump = subprocess.run([BIN / "migrate-dump" / "migrate-dump", self.journal(name) / "web-1.journal"],
                              capture_output=True, text=True, timeout=LIMIT_S, check=False)
        self.assertEqual(dump.returncode, 0, dump.stderr)
        return [line.split()[1] for line in dump.stdout.splitlines() if " sequence " in line and " migration " in line], dump.stdout

    def pair_with_relay(self, cut, after=False, destination=(), source=()):
        """A migration whose link is lost before (or after) the record passes; nothing passes until .heal()."""
        a = self.journaled("A", "source", "workload=flipstorm", "name=web-1", *source)
        b = self.journaled("B", "destination", *destination)
        relay = HealingRelay(b.listen, cut, after)
        self.relays.append(relay)
        done = self.migrate("start", "--to", relay.address, agent=a, certs=False)
        return a, b, relay, done.returncode

    def assert_settles(self, agent, state):
        deadline = time.monotonic() + SETTLED_S
        while (now := self.json("status", agent=agent))["state"] != state or "inquiries" in now:
            self.assertLess(time.monotonic(), deadline, f"{agent.name} is {now}\n{agent.log()}")

    def assert_stays_in_doubt(self, agent, reason):
        """It has asked, the answer was `reason`, and it asks on."""
        deadline = time.monotonic() + SETTLED_S
        while reason not in (status := self.json("status", agent=agent))["inquiries"][0]["last"]:
            self.assertLess(time.monotonic(), deadline, agent.log())
        self.assertEqual(status["state"], "in-doubt")

    def assert_one_runs(self, runs, other, state):
        self.assert_settles(other, state)
        self.assert_settles(runs, "running")
        self.assert_runs_and_is_whole(runs)
        done = self.migrate("recover", "--peer", other.control, "--json", agent=runs, certs=False)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

    def test_handover_lost(self):
        a, b, relay, code = self.pair_with_relay("Handover")
        self.assertEqual((code, self.state(a)), (7, "in-doubt"))
        asking = self.json("status", agent=a)["inquiries"][0]
        self.assertEqual((asking["guest"], asking["to"]), ("web-1", relay.address))
        text = self.migrate("status", agent=a, certs=False).stdout
        self.assertIn(f"asking {relay.address} about web-1, next in ", text)
        relay.heal()
        self.assert_one_runs(b, a, "handed-over")
        self.assertEqual(self.records("A")[0], ["Begun", "Committing", "Released"])
        self.assertEqual(self.records("B")[0], ["Offered", "Ready", "Taken"])

    def test_handover_arrives_and_the_link_is_lost(self):
        a, b, relay, code = self.pair_with_relay("Handover", after=True)
        self.assertEqual(code, 7)
        relay.heal()
        self.assert_one_runs(b, a, "handed-over")

    def test_running_lost(self):
        a, b, relay, code = self.pair_with_relay("Running")
        self.assertEqual(code, 7)
        self.wait_state(b, "running")
        self.assertEqual(self.state(a), "in-doubt")
        relay.heal()
        self.assert_one_runs(b, a, "handed-over")

    def test_ready_lost(self):
        a, b, relay, code = self.pair_with_relay("Ready")
        self.assertEqual(code, 1)
        self.assert_runs_and_is_whole(a)
        self.wait_state(b, "holding")
        relay.heal()
        self.assert_one_runs(a, b, "empty")
        self.assertEqual(self.records("A")[0], ["Begun", "Kept"])
        self.assertEqual(self.records("B")[0], ["Offered", "Ready", "Discarded"])
        self.assertEqual(self.migrate("start", "--to", b.listen, agent=a, certs=False).returncode, 0)
        self.assert_runs_and_is_whole(b)

    def test_ready_arrives_and_the_link_is_lost(self):
        a, b, relay, _ = self.pair_with_relay("Ready", after=True)
        self.assertEqual(self.state(a), "in-doubt")
        relay.heal()
        self.assert_one_runs(b, a, "handed-over")

    def test_half_open(self):
        """The destination does not notice that the link is gone, and is asked before it can."""
        a, b, relay, code = self.pair_with_relay("Handover", after="half open")
        self.assertEqual((code, self.state(b)), (7, "receiving"))
        relay.heal()
        self.assert_one_runs(b, a, "handed-over")

    def test_source_dies_in_doubt_and_comes_back(self):
        a, b, relay, _ = self.pair_with_relay("Handover")
        self.wait_state(b, "holding")
        a.kill()
        relay.heal()
        again = self.journaled("A", "source", "name=web-1")
        self.assert_settles(b, "running")
        self.assert_settles(again, "empty")
        self.assert_runs_and_is_whole(b)
        self.assertEqual(self.records("A")[0], ["Begun", "Committing", "Ceded"])

    def test_source_dies_while_the_guest_runs_there(self):
        a, b, relay, _ = self.pair_with_relay("Running")
        self.wait_state(b, "running")
        a.kill()
        relay.heal()
        again = self.journaled("A", "source", "name=web-1")
        self.assert_settles(again, "empty")
        self.assert_runs_and_is_whole(b)

    def test_source_dies_after_ready_was_lost(self):
        """It had kept the right and run on: what the destination holds is older, and only a human may run that."""
        a, b, relay, _ = self.pair_with_relay("Ready")
        self.wait_state(b, "holding")
        a.kill()
        relay.heal()
        self.journaled("A", "source", "name=web-1")
        self.assertEqual(self.state(b), "holding")

    def test_destination_dies_holding(self):
        a, b, relay, _ = self.pair_with_relay("Handover")
        self.wait_state(b, "holding")
        b.kill()
        again = self.journaled("B", "destination", "name=web-1")
        relay.heal(again.listen)
        self.assert_one_runs(a, again, "empty")
        self.assertEqual(self.records("A")[0], ["Begun", "Committing", "Kept"])

    def test_destination_dies_running(self):
        """The source's copy is older than what ran: nobody runs it without a human."""
        a, b, relay, _ = self.pair_with_relay("Running")
        self.wait_state(b, "running")
        b.kill()
        again = self.journaled("B", "destination")
        relay.heal(again.listen)
        self.assert_stays_in_doubt(a, "from before that")

    def test_destination_without_its_journal_is_not_believed(self):
        a, b, relay, _ = self.pair_with_relay("Handover")
        self.wait_state(b, "holding")
        b.kill()
        other = self.journaled("other", "destination")
        relay.heal(other.listen)
        self.assert_stays_in_doubt(a, "lacks the Ready")

    def test_no_inquiry(self):
        a, b, relay, _ = self.pair_with_relay("Handover", source=("--no-inquiry",))
        self.wait_state(b, "holding")
        self.assertNotIn("inquiries", self.json("status", agent=a))
        relay.heal()
        done = self.migrate("recover", "--peer", b.control, "--apply", "--json", agent=a, certs=False)
        self.assertEqual((done.returncode, json.loads(done.stdout)["verdict"]), (0, "run destination"))
        self.assert_one_runs(b, a, "handed-over")

    def tls_pair(self, way):
        """As pair_with_relay(), over TLS, so that both sides have to prove themselves."""
        a = self.journaled("A", "source", "name=web-1", certs=None)
        b = self.journaled("B", "destination", certs=None)
        relay = JournalRelay(b.listen, self.journal("A") / "web-1.journal", way)
        self.relays.append(relay)
        self.assertEqual(self.migrate("start", "--to", relay.address, agent=a).returncode, 7)
        return a, b, relay

    def test_tls_handover_lost(self):
        a, b, relay = self.tls_pair("forth")
        self.wait_state(b, "holding")
        relay.heal()
        self.assert_settles(b, "running")
        self.assert_settles(a, "handed-over")
        self.assert_runs_and_is_whole(b)

    def test_tls_running_lost(self):
        a, b, relay = self.tls_pair("back")
        self.wait_state(b, "running")
        relay.heal()
        self.assert_settles(a, "handed-over")

    def test_tls_restarted_source(self):
        a, b, relay = self.tls_pair("forth")
        self.wait_state(b, "holding")
        a.kill()
        relay.heal()
        again = self.journaled("A", "source", "name=web-1", certs=None)
        self.assert_settles(b, "running")
        self.assert_settles(again, "empty")
        lines = [line for line in self.records("A")[1].splitlines() if " migration " in line and " sequence " in line]
        self.assertEqual(["MAC" in line for line in lines], [True, True, False])  # Begun, Committing, Ceded

    def test_tls_restarted_destination(self):
        a, b, relay = self.tls_pair("forth")
        self.wait_state(b, "holding")
        b.kill()
        again = self.journaled("B", "destination", certs=None)
        relay.heal(again.listen)
        self.assert_settles(a, "running")
        self.assert_runs_and_is_whole(a)

    def test_tls_another_host_of_the_ca_settles_nothing(self):
        """It has a certificate and a journal with this migration, but was not in the session."""
        a, b, relay = self.tls_pair("forth")
        self.wait_state(b, "holding")
        # The impostor's journal says Ready for the same migration, without the session's MAC.
        other = self.journal("other")
        shutil.copy(self.journal("B") / "web-1.journal", other / "web-1.journal")
        self.forge(other / "web-1.journal")
        impostor = self.agent("impostor", "destination", *GUEST, "--journal", str(other))
        relay.heal(impostor.listen)
        self.assert_stays_in_doubt(a, "Discarded without the session's key")
        self.assertEqual(self.state(b), "holding")

    def forge(self, path):
        """Takes the MACs out of a journal, as who has read it but not the key could, and makes its checksums right."""
        data = bytearray(path.read_bytes())
        checksum = ctypes.CDLL("libxxhash.so.0").XXH3_64bits
        checksum.restype, checksum.argtypes = ctypes.c_uint64, (ctypes.c_char_p, ctypes.c_size_t)
        previous = None
        for at in range(0, len(data), 4096):
            if data[at:at + 4] != b"SLJR":
                break
            if previous is not None:
                data[at + 8:at + 16] = previous
                data[at + 120:at + 152] = bytes(32)
            previous = checksum(bytes(data[at:at + 4088]), 4088).to_bytes(8, "little")
            data[at + 4088:at + 4096] = previous
        path.write_bytes(data)

    def test_digests_and_macs(self):
        """Over TLS every record from Begun and Offered on has a MAC; both sides know the same page map."""
        a = self.journaled("A", "source", "name=web-1", certs=None)
        b = self.journaled("B", "destination", certs=None)
        self.assertEqual(self.start(a, b).returncode, 0)
        maps = []
        for name, kinds in (("A", ["Begun", "Committing", "Released"]), ("B", ["Offered", "Ready", "Taken"])):
            found, text = self.records(name)
            self.assertEqual(found, kinds)
            lines = [line for line in text.splitlines() if " sequence " in line and " migration " in line]
            for line in lines:
                self.assertRegex(line, "MAC [0-9a-f]{64}")
            self.assertNotIn("page map", lines[0])
            maps += [line.split("page map ")[1].split(",")[0] for line in lines[1:]]
        self.assertEqual(set(maps), {self.json("digest", agent=a)["page_map_sha256"]})


if __name__ == "__main__":
    unittest.main()
