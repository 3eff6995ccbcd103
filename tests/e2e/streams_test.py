"""Shared pages on several connections: migrations over 1 to 64 of them, and what happens when one of them fails."""
import pathlib
import subprocess
import unittest

from agents import BIN, LIMIT_S, AgentTest
from relay import Relay

NEVER_SWITCHES = ("--rounds-max", "1000", "--downtime-ms", "0")


class StreamsTest(AgentTest):
    def streams_of(self, agent):
        return self.json("status", agent=agent)["report"]["data_streams"]

    def test_each_number_of_streams(self):
        for streams in (0, 1, 2, 8, 64):
            for platform in ("sev", "none"):
                with self.subTest(streams=streams, platform=platform):
                    a, b, done = self.move(f"platform={platform}", "backend=model", "memory=16M", "vcpus=2",
                                           options=("--streams", str(streams)), source=("workload=random",))
                    self.assertEqual(self.streams_of(a), streams, done.stdout)
                    incoming = self.json("status", agent=b)["incoming"]
                    self.assertEqual(len(incoming.get("stream_pages", [])), streams)
                    if streams > 0:
                        self.assertGreater(sum(incoming["stream_pages"]), 100)

    def test_a_guest_on_kvm(self):
        if self.json("status", agent=self.agent("probe", "source", "platform=none", "memory=8M"))["backend"] != "kvm":
            self.skipTest("no usable /dev/kvm")
        a, _, _ = self.move("platform=none", "backend=kvm", "memory=64M", "vcpus=2", options=("--streams", "4"))
        self.assertEqual(self.streams_of(a), 4)

    def test_unix_sockets_and_plain_tcp(self):
        guest = ("platform=none", "backend=model", "memory=8M", "--insecure-plain-tcp")
        a = self.agent("A", "source", *guest, certs="")
        b = self.agent("B", "destination", *guest, certs="")
        c = self.agent("C", "destination", *guest, certs="", listen=f"unix:{self.work}/c.sock")
        for source, destination in ((a, b), (b, c)):
            done = self.migrate("start", "--to", destination.listen, "--streams", "3", agent=source, certs=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.streams_of(source), 3)
            self.assert_same_digests(source, destination)

    def test_one_connection_is_cut(self):
        """Cut before it says anything, in its StreamJoin, in its first pages and after some rounds: the guest stays."""
        a, b = self.pair("platform=sev", "backend=model", "memory=16M", "vcpus=2", source=("workload=random",))
        for limit in (1, 2000, 100_000, 9_000_000):
            with self.subTest(bytes=limit):
                relay = Relay(b.listen, limit, on=2)
                try:
                    done = self.migrate("start", "--to", relay.address, "--streams", "3", *NEVER_SWITCHES, agent=a)
                finally:
                    relay.close()
                self.assertEqual(done.returncode, 1, done.stderr[-300:])
                self.assert_runs_and_is_whole(a)
                self.wait_state(b, "empty")
        done = self.start(a, b, "--streams", "3")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same_digests(a, b)

    def test_cancel_in_a_round(self):
        a, b = self.pair("platform=none", "backend=model", "memory=64M", source=("workload=random",))
        self.assertEqual(self.start(a, b, "--detach", "--streams", "8", *NEVER_SWITCHES).returncode, 0)
        self.wait_sending(a)
        self.assertEqual(self.migrate("cancel", agent=a).returncode, 0)
        self.assertEqual(self.wait_state(a, "running")["report"]["outcome"], "cancelled")
        self.wait_state(b, "empty")
        self.assertIn("cancelled", b.log())
        self.assert_runs_and_is_whole(a)

    def test_a_killed_side_is_noticed(self):
        a, b = self.pair("platform=none", "backend=model", "memory=32M", source=("workload=random",))
        self.assertEqual(self.start(a, b, "--detach", "--streams", "4", *NEVER_SWITCHES).returncode, 0)
        self.wait_sending(a)
        b.kill()
        self.assertEqual(self.wait_state(a, "running")["report"]["outcome"], "failed, source running")
        self.assert_runs_and_is_whole(a)

    def test_each_stream_is_captured(self):
        capture = f"{self.work}/stream"
        pathlib.Path(f"{capture}.7").write_bytes(b"of an earlier migration")
        self.move("platform=none", "backend=model", "memory=8M", options=("--streams", "2"), source=("--capture", capture))
        self.assertFalse(pathlib.Path(f"{capture}.7").exists())
        for name, words in ((capture, ("StreamJoin", "EpochBegin", "EpochEnd", "Handover")),
                            (f"{capture}.1", ("StreamJoin", "LivePages", "EpochEnd")),
                            (f"{capture}.2", ("StreamJoin", "EpochEnd"))):
            dump = subprocess.run([BIN / "migrate-dump" / "migrate-dump", name], capture_output=True, text=True,
                                  timeout=LIMIT_S, check=False)
            self.assertEqual(dump.returncode, 0, dump.stderr)
            for word in words:
                self.assertIn(word, dump.stdout)


if __name__ == "__main__":
    unittest.main()
