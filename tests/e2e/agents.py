"""Starts migrate-agents as processes and calls migrate: what an operator does, for tests."""
import json
import os
import pathlib
import re
import select
import shutil
import subprocess
import tempfile
import time
import unittest

BIN = pathlib.Path(os.environ["SEALIFT_BIN"])
MIGRATE = str(BIN / "migrate" / "migrate")
AGENT = str(BIN / "migrate-agent" / "migrate-agent")
LIMIT_S = 120


class Agent:
    """One migrate-agent. Ready once constructed; .stop() ends it."""

    def __init__(self, log_path, name, role, certs, *arguments, control="tcp:127.0.0.1:0", listen="tcp:127.0.0.1:0",
                 prefix=()):
        self.name, self.log_path, self.certs = name, log_path, bool(certs)
        command = [*prefix, AGENT, "--name", name, "--role", role, "--control", control, *arguments]
        if certs:
            command += ["--certs", certs]
        if role == "destination":
            command += ["--listen", listen]
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        ready = self._ready_line()
        self.fields = dict(word.split("=", 1) for word in ready.split()[1:])
        self.control = self.fields["control"]
        self.listen = self.fields.get("listen")

    def _ready_line(self):
        readable, _, _ = select.select([self.process.stdout], [], [], LIMIT_S)
        line = self.process.stdout.readline().decode() if readable else ""
        if not line.startswith("ready "):
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            raise RuntimeError(f"{self.name} did not start: {self.log()}")
        return line

    def log(self):
        return pathlib.Path(self.log_path).read_text(encoding="utf-8")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        self.process.stdout.close()


class AgentTest(unittest.TestCase):
    """Keys and folders for one test class; agents are stopped after each test."""

    @classmethod
    def setUpClass(cls):
        cls.work = tempfile.mkdtemp(prefix="sealift-")
        cls.certs = f"{cls.work}/certs"
        done = subprocess.run([MIGRATE, "certs", "--dir", cls.certs, "--host", "a", "--host", "b", "--host", "op",
                               "--name", "localhost", "--name", "127.0.0.1"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.work, ignore_errors=True)

    def setUp(self):
        self.agents = []

    def tearDown(self):
        for agent in self.agents:
            agent.stop()

    def agent(self, name, role, *arguments, certs=None, **addresses):
        own = f"{self.certs}/{'a' if role == 'source' else 'b'}" if certs is None else certs
        agent = Agent(f"{self.work}/{name}-{len(self.agents)}.log", name, role, own, *arguments, **addresses)
        self.agents.append(agent)
        return agent

    def pair(self, *guest, source=(), destination=()):
        return self.agent("A", "source", *guest, *source), self.agent("B", "destination", *guest, *destination)

    @staticmethod
    def resident_bytes(agent):
        """Of the guest's memory in that agent, which may use it through its file as well as through the mapping."""
        stat = [os.stat(f"/proc/{agent.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{agent.process.pid}/fd")
                if "memfd:sealift-guest" in os.readlink(f"/proc/{agent.process.pid}/fd/{fd}")]
        return sum(one.st_blocks * 512 for one in stat)

    def migrate(self, *arguments, agent=None, certs=True, timeout=LIMIT_S):
        command = [MIGRATE, *arguments]
        if agent is not None:
            command += ["--agent", agent.control if isinstance(agent, Agent) else agent]
            if certs:
                command += ["--certs", f"{self.certs}/op" if certs is True else certs]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def json(self, *arguments, agent):
        done = self.migrate(*arguments, "--json", agent=agent, certs=agent.certs)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def start(self, source, destination, *arguments):
        return self.migrate("start", "--to", destination.listen, *arguments, agent=source)

    def wait_state(self, agent, *states):
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            status = self.json("status", agent=agent)
            if status["state"] in states:
                return status
        self.fail(f"{agent.name} never became {states}: {status['state']}")
        return None

    def wait_sending(self, source):
        """Until pages of a live round are on their way."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            status = self.json("status", agent=source)
            if status.get("progress", {}).get("round", {}).get("epoch", 0) >= 1:
                return
            self.assertEqual(status["state"], "migrating", status)
        self.fail("no round began")

    def assert_runs_and_is_whole(self, agent):
        status = self.json("status", agent=agent)
        self.assertEqual((status["state"], status["vm"]["state"]), ("running", "running"), status)
        self.assertEqual(self.json("verify", agent=agent)["errors"], 0)

    def assert_same_digests(self, source, destination):
        first, second = (self.json("digest", agent=agent) for agent in (source, destination))
        self.assertEqual(first, second)
        self.assertEqual(first["at"], "handover")
        self.assertTrue(re.fullmatch("[0-9a-f]{64}", first["memory_sha256"]))

    def move(self, *guest, options=(), source=()):
        """A whole migration, with everything that must hold after it."""
        a, b = self.pair(*guest, source=source)
        done = self.start(a, b, *options)
        self.assertEqual(done.returncode, 0, done.stderr + a.log() + b.log())
        self.assert_same_digests(a, b)
        self.assertEqual(self.json("status", agent=a)["state"], "handed-over")
        # What the guest does came with its memory: the destination does not pass its own defaults off as that.
        self.assertNotIn("workload", self.json("status", agent=b)["guest"])
        self.assert_runs_and_is_whole(b)
        return a, b, done

    def assert_one_clear_sentence(self, done, code, *parts):
        self.assertEqual(done.returncode, code, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("migrate")]
        self.assertEqual(len(lines), 1, done.stderr)
        for part in parts:
            self.assertIn(part, lines[0])
