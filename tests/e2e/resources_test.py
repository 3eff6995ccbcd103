"""What moves with the right to run: locks of disks, addresses in the network, and the operator's hooks."""
import contextlib
import fcntl
import json
import os
import pathlib
import struct
import subprocess
import sys
import threading
import time
import unittest

from agents import LIMIT_S, MIGRATE, AgentTest
from relay import FrameRelay

GUEST = ("platform=sev", "backend=model", "memory=16M", "--insecure-plain-tcp")
NEVER_SWITCHES = ("--rounds-max", "1000", "--downtime-ms", "0")
F_OFD_SETLK, F_OFD_SETLKW = 37, 38
EVENTS = ("guest-runs-here", "guest-left", "guest-kept", "in-doubt", "discarded", "lost")

# One line for each run, in one write.
NOTE = """#!/bin/sh
printf '%s\\n' "{{\\"time\\":$SEALIFT_TIME_NS,\\"agent\\":\\"{agent}\\",\\"event\\":\\"$SEALIFT_EVENT\\",\\"word\\":\\"$1\\",\
\\"guest\\":\\"$SEALIFT_GUEST\\",\\"migration\\":\\"$SEALIFT_MIGRATION\\",\\"generation\\":$SEALIFT_GENERATION,\
\\"peer\\":\\"$SEALIFT_PEER\\",\\"again\\":$SEALIFT_AGAIN}}" >> {file}
"""


# Frames that arrive on an interface and name the guest, with their time.
SNIFF = """
import socket, sys, time
port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
port.bind((sys.argv[1], 0))
port.settimeout(60)
print("ready", flush=True)
left = int(sys.argv[2])
while left:
    frame = port.recv(2048)
    if frame[6:11] == bytes.fromhex("5254001234"):
        print(time.monotonic(), frame.hex(), flush=True)
        left -= 1
"""


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


class ResourcesTest(AgentTest):
    def setUp(self):
        super().setUp()
        self.relays = []
        self.home = pathlib.Path(self.work, self.id())
        self.home.mkdir()
        self.events = self.home / "events"

    def tearDown(self):
        for relay in self.relays:
            relay.close()
        super().tearDown()

    def migrate(self, *arguments, agent=None, certs=False, timeout=LIMIT_S):
        return super().migrate(*arguments, agent=agent, certs=certs, timeout=timeout)

    def disk(self, name="disk"):
        path = self.home / name
        path.touch()
        return path

    def journal(self, name):
        path = self.home / f"journal-{name}"
        path.mkdir(exist_ok=True, mode=0o700)
        return ("--journal", str(path), "--no-inquiry")  # an operator settles

    def program(self, name, text):
        path = self.home / name
        path.write_text(text, encoding="ascii")
        path.chmod(0o755)
        return path

    def noting(self, name):
        """Hooks that write each event of agent `name` down."""
        path = self.program(f"note-{name}", NOTE.format(agent=name, file=self.events))
        return [word for event in EVENTS for word in ("--hook", f"{event}={path}")]

    def one(self, name, role, *arguments, **more):
        return self.agent(name, role, *GUEST, *self.journal(name), *arguments, certs="", **more)

    def two(self, disk, *source):
        a = self.one("A", "source", f"disk={disk}", "name=web-1", *self.noting("A"), *source)
        return a, self.one("B", "destination", f"disk={disk}", *self.noting("B"))

    def told(self, count):
        """The events, once there are `count` of them, in the order in which they happened."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            lines = self.events.read_text(encoding="utf-8").splitlines() if self.events.exists() else []
            if len(lines) >= count:
                events = sorted((json.loads(line) for line in lines), key=lambda event: event["time"])
                self.assertEqual(len(events), count, events)
                return events
            time.sleep(0.02)
        self.fail(f"{count} events never came: {lines}")
        return None

    def assert_told(self, *pairs):
        self.assertEqual([(event["agent"], event["event"]) for event in self.told(len(pairs))], list(pairs))

    def locked(self, agent):
        return self.json("status", agent=agent)["resources"]["disks_locked"]

    def can_lock(self, path):
        with open(path, "r+b") as file:
            try:
                fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            except BlockingIOError:
                return False
            return True

    @contextlib.contextmanager
    def holding(self, path, call=F_OFD_SETLK):
        with open(path, "r+b") as file:
            fcntl.fcntl(file, call, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            yield

    def test_all_moves_with_the_guest(self):
        disk = self.disk()
        a, b = self.two(disk)
        self.assertEqual((self.locked(a), self.locked(b), self.can_lock(disk)), (True, False, False))
        done = self.start(a, b)
        self.assertEqual(done.returncode, 0, done.stderr + a.log() + b.log())
        self.assertEqual((self.locked(a), self.locked(b), self.can_lock(disk)), (False, True, False))
        self.assert_told(("B", "guest-runs-here"), ("A", "guest-left"))
        arrived, left = self.told(2)
        self.assertEqual((arrived["peer"], left["peer"]), ("A", "B"))
        for event in (arrived, left):
            self.assertEqual((event["guest"], event["generation"], event["again"]), ("web-1", 0, 0))
            self.assertEqual((event["migration"], event["word"]), (left["migration"], event["event"]))
        self.assertRegex(left["migration"], "^[0-9a-f]{32}$")
        # And on to a third: what arrived can leave.
        c = self.one("C", "destination", f"disk={disk}", *self.noting("C"))
        self.assertEqual(self.start(b, c).returncode, 0)
        self.assertEqual((self.locked(b), self.locked(c)), (False, True))
        self.assertEqual([event["generation"] for event in self.told(4)], [0, 0, 1, 1])
        c.stop()
        self.assertTrue(self.can_lock(disk))

    def test_a_locked_disk_is_not_used_twice(self):
        disk, other = self.disk(), self.disk("other")
        self.one("A", "source", f"disk={disk}")
        with self.assertRaisesRegex(RuntimeError, f"disk {disk} is locked by process {self.agents[0].process.pid} "
                                                  r"\(.*migrate-agent --name A"):
            self.one("C", "source", f"disk={other}", f"disk={disk}")
        self.assertTrue(self.can_lock(other))  # all or none, and none is left behind
        with self.assertRaisesRegex(RuntimeError, "same file"):
            self.one("D", "source", f"disk={other}", f"disk={self.home}/../{self.home.name}/other")
        with self.assertRaisesRegex(RuntimeError, "cannot be opened"):
            self.one("E", "source", f"disk={self.home}/nothing")

    def test_handover_lost(self):
        disk = self.disk()
        a, b = self.two(disk)
        relay = FrameRelay(b.listen, "Handover")
        self.relays.append(relay)
        self.assertEqual(self.migrate("start", "--to", relay.address, agent=a).returncode, 7)
        self.wait_state(b, "holding")
        # Nobody runs it, so nobody has its disk, and nobody says that it runs.
        self.assertEqual((self.locked(a), self.locked(b)), (False, False))
        self.assert_told(("A", "in-doubt"))
        recovered = self.migrate("recover", "--peer", b.control, "--apply", agent=a)
        self.assertEqual(recovered.returncode, 0, recovered.stderr)
        self.assertEqual((self.locked(a), self.locked(b)), (False, True))
        self.assert_told(("A", "in-doubt"), ("B", "guest-runs-here"), ("A", "guest-left"))
        self.assert_runs_and_is_whole(b)

    def test_cancelled(self):
        disk = self.disk()
        a, b = self.two(disk, "workload=flipstorm", "memory=64M")
        b.stop()
        b = self.one("B", "destination", f"disk={disk}", "memory=64M", *self.noting("B"))
        self.assertEqual(self.start(a, b, "--detach", *NEVER_SWITCHES).returncode, 0)
        self.wait_sending(a)
        self.assertEqual((self.locked(a), self.locked(b)), (True, False))
        self.assertEqual(self.migrate("cancel", agent=a).returncode, 0)
        self.wait_state(a, "running")
        self.assertEqual((self.locked(a), self.locked(b)), (True, False))
        self.assertEqual({(event["agent"], event["event"]) for event in self.told(2)},
                         {("A", "guest-kept"), ("B", "discarded")})
        self.assert_runs_and_is_whole(a)

    def test_a_destination_that_cannot_lock_gives_the_guest_back(self):
        disk, other = self.disk(), self.disk("other")
        a = self.one("A", "source", f"disk={disk}", *self.noting("A"))
        b = self.one("B", "destination", f"disk={other}", *self.noting("B"))
        with self.holding(other):
            done = self.start(a, b)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(f"nothing was written of Taken: disk {other} is locked by", done.stderr + done.stdout)
        self.assertEqual((self.locked(a), self.wait_state(b, "empty")["resources"]["disks_locked"]), (True, False))
        self.assert_runs_and_is_whole(a)
        self.assert_told(("B", "discarded"), ("A", "guest-kept"))
        self.assertEqual(self.start(a, b).returncode, 0)  # the next try

    def test_a_source_that_cannot_lock_again_does_not_run(self):
        disk, other = self.disk(), self.disk("other")
        a = self.one("A", "source", f"disk={disk}", *self.noting("A"))
        b = self.one("B", "destination", f"disk={other}", *self.noting("B"))
        got, done = threading.Event(), threading.Event()

        def thief():  # is let in when the source gives the lock up for the hand-over
            with self.holding(disk, F_OFD_SETLKW):
                got.set()
                done.wait(LIMIT_S)

        thread = threading.Thread(target=thief)
        thread.start()
        try:
            with self.holding(other):
                self.assertEqual(self.start(a, b).returncode, 7)
            self.assertTrue(got.is_set())
            status = self.json("status", agent=a)
            self.assertEqual((status["state"], status["vm"]["state"]), ("in-doubt", "paused"))
            self.assertIn(f"disk {disk} is locked by", status["report"]["error"]["detail"])
            recover = ("recover", "--peer", b.control, "--apply")
            refused = self.migrate(*recover, agent=a)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn(f"disk {disk} is locked by", refused.stderr)
            self.assertEqual(self.json("status", agent=a)["vm"]["state"], "paused")
        finally:
            done.set()
            thread.join()
        settled = self.migrate(*recover, agent=a)
        self.assertEqual(settled.returncode, 0, settled.stderr)
        self.assert_runs_and_is_whole(a)
        self.assertTrue(self.locked(a))
        self.assert_told(("B", "discarded"), ("A", "in-doubt"), ("A", "guest-kept"))

    def test_hooks_that_fail_or_hang_change_nothing(self):
        bad = self.program("bad", "#!/bin/sh\necho no route\necho to 192.0.2.1 >&2\nexit 3\n")
        hang = self.program("hang", f"#!/bin/sh\nsleep 1000 &\necho $$ $! > {self.home}/pids\nwait\n")
        a = self.one("A", "source", "--hook", f"guest-left={bad}", *self.noting("A"))
        b = self.one("B", "destination", "--hook", f"guest-runs-here={hang}", "--hook-timeout-ms", "700",
                     *self.noting("B"))
        self.assertEqual(self.start(a, b).returncode, 0)
        self.assert_told(("B", "guest-runs-here"), ("A", "guest-left"))  # those after it ran
        self.assert_runs_and_is_whole(b)
        failed = [self.json("status", agent=agent)["resources"]["hooks"] for agent in (a, b)]
        self.assertEqual([hooks["failed"] for hooks in failed], [1, 1])
        self.assertEqual(failed[0]["last"][0]["how"], "exit code 3")
        self.assertRegex(failed[1]["last"][0]["how"], "^killed after (7|8|9)[0-9]{2} ms|^killed after [0-9]{4} ms")
        for word in ("says: no route", "says: to 192.0.2.1", "exit code 3"):
            self.assertIn(word, a.log())
        self.assertIn(f"hook guest-left {bad} failed: exit code 3", self.migrate("status", agent=a).stdout)
        for pid in (self.home / "pids").read_text(encoding="ascii").split():
            self.assert_ends(pid)  # the whole group is killed

    def assert_ends(self, pid):
        """Soon; a process that its parent has not reaped yet has ended."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] == "Z":
                    return
            except OSError:
                return
            time.sleep(0.02)
        self.fail(f"process {pid} still runs")

    def test_a_hook_has_the_rights_of_its_agent(self):
        out = self.home / "status"
        program = self.program("rights", f"#!/bin/sh\n(cat /proc/self/status; ls /proc/self/fd; env) > {out}.new\n"
                                         f"mv {out}.new {out}\n")
        a = self.one("A", "source", "--hook", f"guest-left={program}")
        b = self.one("B", "destination")
        self.assertEqual(self.start(a, b).returncode, 0)
        deadline = time.monotonic() + LIMIT_S
        while not out.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        lines = out.read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        self.assertEqual((int(fields["CapEff"], 16), int(fields["CapPrm"], 16), fields["NoNewPrivs"]), (0, 0, "1"))
        self.assertEqual(int(fields["SigBlk"], 16), 0)
        self.assertLessEqual({line for line in lines if line.isdigit()}, {"0", "1", "2", "3"})  # 3 is ls's own
        self.assertEqual({line.split("=")[0] for line in lines if "=" in line} - {"PWD", "OLDPWD", "SHLVL", "_"},
                         {"PATH", *(f"SEALIFT_{name}" for name in ("EVENT", "GUEST", "MIGRATION", "GENERATION", "PEER",
                                                                   "REASON", "AGAIN", "TIME_NS"))})

    def test_a_restarted_agent_tells_again(self):
        disk = self.disk()
        a, b = self.two(disk)
        self.assertEqual(self.start(a, b).returncode, 0)
        self.told(2)
        a.kill()
        self.one("A", "destination", f"disk={disk}", *self.noting("A"))
        again = self.told(3)[2]
        self.assertEqual((again["agent"], again["event"], again["again"], again["generation"]), ("A", "guest-left", 1, 0))
        self.assertEqual(again["migration"], self.told(3)[0]["migration"])

    def test_an_agent_that_ends_lets_its_hooks_finish(self):
        slow = self.program("slow", f"#!/bin/sh\nsleep 1\necho done > {self.home}/slow-done\n")
        a = self.one("A", "source", "--hook", f"guest-left={slow}")
        b = self.one("B", "destination")
        self.assertEqual(self.start(a, b).returncode, 0)
        a.stop()
        self.assertTrue((self.home / "slow-done").exists(), a.log())

    def test_both_sides_need_a_journal(self):
        disk = self.disk()
        for words in ((f"disk={disk}",), ("--hook", f"lost={MIGRATE}")):
            with self.assertRaisesRegex(RuntimeError, "they need --journal DIR"):
                self.agent("X", "source", *GUEST, *words, certs="")
        a = self.one("A", "source", f"disk={disk}")
        forgetful = self.agent("F", "destination", *GUEST, certs="")
        for command in ("check", "start"):
            done = self.migrate(command, "--to", forgetful.listen, agent=a)
            self.assert_one_clear_sentence_in(done, 3, "F keeps no journal")
        self.assert_runs_and_is_whole(a)
        source = self.agent("S", "source", *GUEST, certs="")
        b = self.one("B", "destination", f"disk={disk}")
        done = self.migrate("start", "--to", b.listen, agent=source)
        self.assert_one_clear_sentence_in(done, 3, "B takes only guests whose source keeps a journal")
        self.assert_runs_and_is_whole(source)

    def assert_one_clear_sentence_in(self, done, code, part):
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertIn(part, done.stdout + done.stderr)

    def test_addresses_are_announced_where_the_guest_arrives(self):
        if os.geteuid() != 0:
            self.skipTest("network namespaces and packet sockets need root")
        space = f"sealift-{os.getpid()}"
        if (made := run("ip", "netns", "add", space)).returncode != 0:
            self.skipTest(f"no network namespace can be made here: {made.stderr}")
        self.addCleanup(run, "ip", "netns", "delete", space)
        inside = ("ip", "netns", "exec", space)
        for words in (("link", "add", "tap0", "type", "veth", "peer", "name", "wire0"), ("link", "set", "tap0", "up"),
                      ("link", "set", "wire0", "up")):
            if (made := run(*inside, "ip", *words)).returncode != 0:
                self.skipTest(f"no veth pair can be made here: {made.stderr}")
        # Sockets of files reach across namespaces.
        a = self.one("A", "source", control=f"unix:{self.home}/a")
        b = self.one("B", "destination", "announce=tap0,52:54:00:12:34:56", "announce=tap0,52:54:00:12:34:57,192.0.2.7",
                     control=f"unix:{self.home}/b", listen=f"unix:{self.home}/in", prefix=inside)
        with subprocess.Popen([*inside, sys.executable, "-c", SNIFF, "wire0", "10"], stdout=subprocess.PIPE, text=True) as sniff:
            self.assertEqual(sniff.stdout.readline(), "ready\n")
            self.assertEqual(self.json("status", agent=b)["resources"]["announce"]["frames_sent"], 0)
            done = self.start(a, b)
            self.assertEqual(done.returncode, 0, done.stderr)
            frames = [line.split() for line in sniff.communicate(timeout=LIMIT_S)[0].splitlines()]
        rarp = "ff" * 6 + "525400123456" + "8035" + "0001080006040003" + ("525400123456" + "00000000") * 2
        arp = "ff" * 6 + "525400123457" + "0806" + "0001080006040001" + "525400123457c0000207" + "000000000000c0000207"
        wanted = [text.ljust(120, "0") for text in (rarp, arp)] * 5
        self.assertEqual([frame for _, frame in frames], wanted)
        times = [float(at) for at, _ in frames[::2]]
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        self.assertEqual([gap > least for gap, least in zip(gaps, (0.045, 0.145, 0.245, 0.345))], [True] * 4, gaps)
        announced = self.json("status", agent=b)["resources"]["announce"]
        self.assertEqual(announced["frames_sent"], 10)
        self.assertLess(announced["first_frame_after_ms"], 1000)
        status = pathlib.Path(f"/proc/{b.process.pid}/status").read_text(encoding="ascii")
        self.assertRegex(status, r"CapEff:\t0+\n")  # the port was opened before they were dropped

    def test_what_cannot_be_announced(self):
        for text, why in (("lo", "is not IFACE,MAC"), ("lo,52:54:00:12:34", "is not IFACE,MAC"),
                          ("lo,53:54:00:12:34:56", "is not IFACE,MAC"), ("nothing0,52:54:00:12:34:56", "no interface")):
            with self.assertRaisesRegex(RuntimeError, why):
                self.one("A", "source", f"announce={text}")

    def test_what_is_no_hook(self):
        for text, why in (("guest-gone=/bin/true", "is not EVENT=PATH"), ("guest-left", "is not EVENT=PATH"),
                          ("guest-left=true", "absolute path"), ("guest-left=/etc/passwd", "may execute"),
                          ("guest-left=/bin", "may execute")):
            with self.assertRaisesRegex(RuntimeError, why):
                self.one("A", "source", "--hook", text)


if __name__ == "__main__":
    unittest.main()
