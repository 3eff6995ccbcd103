"""Links that are cut and destinations that die: before the hand-over the guest runs on at the source, and nobody hangs."""
import json
import signal
import socket
import time
import unittest

from agents import AgentTest
from relay import Relay

GUEST = ("platform=sev", "backend=model", "memory=64M", "workload=flipstorm")
NEVER_SWITCHES = ("--rounds-max", "1000", "--downtime-ms", "0")


class LossTest(AgentTest):
    def report(self, source):
        watched = self.migrate("watch", "--json", agent=source)
        return watched.returncode, json.loads(watched.stdout.splitlines()[-1])

    def pair_sending(self):
        """Two agents in the live rounds of a migration that would go on for ever."""
        a, b = self.pair(*GUEST)
        self.assertEqual(self.start(a, b, "--detach", *NEVER_SWITCHES).returncode, 0)
        self.wait_sending(a)
        return a, b

    def test_killed_destination(self):
        a, b = self.pair_sending()
        b.kill()
        code, report = self.report(a)
        self.assertEqual(code, 1, report)
        self.assertEqual(report["outcome"], "failed, source running")
        self.assertTrue(report["error"]["detail"])
        self.assert_runs_and_is_whole(a)

    def test_stopped_destination_is_noticed(self):
        """A peer that neither reads nor answers: the idle limit ends it, not a hang."""
        a, b = self.pair_sending()
        b.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            code, report = self.report(a)
            self.assertEqual(code, 1, report)
            self.assertLess(time.monotonic() - began, 30)
            self.assert_runs_and_is_whole(a)
        finally:
            b.process.send_signal(signal.SIGCONT)

    def test_cancel_reaches_a_source_whose_destination_is_stopped(self):
        a, b = self.pair_sending()
        b.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            self.assertEqual(self.migrate("cancel", agent=a).returncode, 0)
            code, report = self.report(a)
            self.assertEqual(code, 5, report)
            self.assertLess(time.monotonic() - began, 3)
        finally:
            b.process.send_signal(signal.SIGCONT)
        self.assert_runs_and_is_whole(a)

    def test_cancel_while_connecting(self):
        """A destination that accepts and says nothing: the TLS handshake hangs until the operator cancels."""
        a = self.agent("A", "source", *GUEST)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            to = f"tcp:127.0.0.1:{silent.getsockname()[1]}"
            self.assertEqual(self.migrate("start", "--to", to, "--detach", agent=a).returncode, 0)
            connection, _ = silent.accept()
            began = time.monotonic()
            self.assertEqual(self.migrate("cancel", agent=a).returncode, 0)
            code, report = self.report(a)
            self.assertLess(time.monotonic() - began, 2)
            connection.close()
        self.assertEqual(code, 5, report)
        self.assert_runs_and_is_whole(a)

    def test_silent_destination_times_out(self):
        a = self.agent("A", "source", *GUEST)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            to = f"tcp:127.0.0.1:{silent.getsockname()[1]}"
            done = self.migrate("start", "--to", to, agent=a)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(to, done.stderr)
        self.assert_runs_and_is_whole(a)

    def test_killed_source_leaves_an_empty_destination(self):
        a, b = self.pair(*GUEST)
        self.assertEqual(self.start(a, b, "--detach", *NEVER_SWITCHES).returncode, 0)
        self.wait_state(b, "receiving")
        a.kill()
        status = self.wait_state(b, "empty")
        self.assertEqual(status["incoming"]["outcome"], "discarded")
        self.assertTrue(status["incoming"]["error"]["detail"])

    def test_cut_link(self):
        a, b = self.pair(*GUEST)
        for limit in (1, 300, 3000, 100_000, 5_000_000):
            with self.subTest(bytes=limit):
                relay = Relay(b.listen, limit)
                try:
                    done = self.migrate("start", "--to", relay.address, *NEVER_SWITCHES, agent=a)
                finally:
                    relay.close()
                self.assertEqual(done.returncode, 1, done.stderr[-300:])
                self.assert_runs_and_is_whole(a)
                self.wait_state(b, "empty")
        done = self.start(a, b)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same_digests(a, b)


class CorruptionTest(AgentTest):
    """Without TLS a flipped bit reaches the protocol: it is found, named on both sides, and the guest runs on."""

    def test_flipped_bits(self):
        guest = ("platform=sev", "backend=model", "memory=8M", "--insecure-plain-tcp")
        a = self.agent("A", "source", *guest, certs="")
        b = self.agent("B", "destination", *guest, certs="")
        places = [("forth", at) for at in (0, 4, 6, 9, 17, 30, 40, 50, 200, 5000, 300_000, 3_000_000)]
        places += [("back", at) for at in (0, 20, 45, 60, 300)]
        for direction, at in places:
            with self.subTest(direction=direction, byte=at):
                seen = len(b.log())
                relay = Relay(b.listen, flip=at, direction=direction)
                try:
                    done = self.migrate("start", "--to", relay.address, *NEVER_SWITCHES, agent=a, certs=False)
                finally:
                    relay.close()
                self.assertIn(done.returncode, (1, 3), done.stderr[-300:])
                sentence = done.stderr.splitlines()[-1]
                expected = r"checksum|magic|session|version|bytes of (meta|payload)"
                if direction == "forth" and at < 48:  # a first header that cannot be trusted cannot be answered
                    expected = r"before it said Hello; its log says why"
                self.assertRegex(sentence, expected, sentence)
                self.wait_state(b, "empty")
                self.assertRegex(b.log()[seen:], r"incoming from .*: discarded: .+", b.log()[seen:])
                self.assertEqual(self.migrate("verify", agent=a, certs=False).returncode, 0)
        self.assertEqual(self.migrate("start", "--to", b.listen, agent=a, certs=False).returncode, 0)


if __name__ == "__main__":
    unittest.main()
