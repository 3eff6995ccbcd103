"""Links that are cut and destinations that die: before the hand-over the guest runs on at the source, and nobody hangs."""
import json
import signal
import socket
import threading
import time
import unittest

from agents import AgentTest

GUEST = ("platform=sev", "backend=model", "memory=64M", "workload=flipstorm")
NEVER_SWITCHES = ("--rounds-max", "1000", "--downtime-ms", "0")


class Relay:
    """Forwards one connection to `target` until .cut(), or for `limit` bytes of source to destination."""

    def __init__(self, target, limit=None):
        host, port = target.removeprefix("tcp:").rsplit(":", 1)
        self.target, self.limit = (host, int(port)), limit
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp:127.0.0.1:{self.server.getsockname()[1]}"
        self.sockets = []
        self.threads = [threading.Thread(target=self._serve)]
        self.threads[0].start()

    def _serve(self):
        try:
            client, _ = self.server.accept()
        except OSError:
            return
        upstream = socket.create_connection(self.target)
        self.sockets += [client, upstream]
        back = threading.Thread(target=self._pump, args=(upstream, client, None))
        self.threads.append(back)
        back.start()
        self._pump(client, upstream, self.limit)

    def _pump(self, source, sink, limit):
        passed = 0
        try:
            while data := source.recv(65536 if limit is None else min(65536, limit - passed)):
                sink.sendall(data)
                passed += len(data)
                if passed == limit:
                    break
        except OSError:
            pass
        self.cut()

    def cut(self):
        for one in self.sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.server.close()
        self.cut()
        for thread in self.threads:
            thread.join()
        for one in self.sockets:
            one.close()


class LossTest(AgentTest):
    def report(self, source):
        watched = self.migrate("watch", "--json", agent=source)
        return watched.returncode, json.loads(watched.stdout.splitlines()[-1])

    def test_killed_destination(self):
        a, b = self.pair(*GUEST)
        self.assertEqual(self.start(a, b, "--detach", *NEVER_SWITCHES).returncode, 0)
        self.wait_sending(a)
        b.kill()
        code, report = self.report(a)
        self.assertEqual(code, 1, report)
        self.assertEqual(report["outcome"], "failed, source running")
        self.assertTrue(report["error"]["detail"])
        self.assert_runs_and_is_whole(a)

    def test_stopped_destination_is_noticed(self):
        """A peer that neither reads nor answers: the idle limit ends it, not a hang."""
        a, b = self.pair(*GUEST)
        self.assertEqual(self.start(a, b, "--detach", *NEVER_SWITCHES).returncode, 0)
        self.wait_sending(a)
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
        a, b = self.pair(*GUEST)
        self.assertEqual(self.start(a, b, "--detach", *NEVER_SWITCHES).returncode, 0)
        self.wait_sending(a)
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


if __name__ == "__main__":
    unittest.main()
