"""An agent needs next to nothing: no capability, no root, and its vCPU threads hardly a system call."""
import os
import pathlib
import shutil
import unittest

from agents import AgentTest

NOBODY = 65534


def fields(path):
    """Of a status file in /proc."""
    return dict(line.split(":\t", 1) for line in pathlib.Path(path).read_text(encoding="ascii").splitlines() if ":\t" in line)


class RightsTest(AgentTest):
    def test_an_agent_has_no_capabilities(self):
        for backend in ("model", "auto"):
            agent = self.agent("A", "source", "platform=sev", f"backend={backend}", "memory=8M")
            for status in pathlib.Path(f"/proc/{agent.process.pid}/task").glob("*/status"):
                task = fields(status)
                self.assertEqual((int(task["CapEff"], 16), int(task["CapPrm"], 16), task["NoNewPrivs"]), (0, 0, "1"))

    def test_vcpu_threads_are_in_a_sandbox(self):
        agent = self.agent("A", "source", "platform=sev", "memory=8M", "vcpus=2")
        reason = self.json("status", agent=agent)["backend_reason"]
        if not reason.startswith("kvm:"):
            self.skipTest(reason)
        tasks = [fields(status) for status in pathlib.Path(f"/proc/{agent.process.pid}/task").glob("*/status")]
        # Not the worker that newer kernels start beside a VM ("kvm-nx-lpage-re"). One filter is the agent's own.
        filters = [task["Seccomp_filters"].strip() for task in tasks if not task["Name"].startswith("kvm-")]
        self.assertEqual((filters.count("2"), filters.count("1")), (2, len(filters) - 2), filters)

    def test_only_an_agent_with_hooks_may_start_programs(self):
        journal = pathlib.Path(self.work) / "journal"
        journal.mkdir(mode=0o700)
        guest = ("platform=sev", "backend=model", "memory=8M")
        for arguments, mode in (((), "2"), (("--hook", "guest-left=/bin/true", "--journal", str(journal)), "0")):
            agent = self.agent("A", "source", *guest, *arguments)
            for status in pathlib.Path(f"/proc/{agent.process.pid}/task").glob("*/status"):
                self.assertEqual(fields(status)["Seccomp"].strip(), mode)

    def test_an_ordinary_user_migrates(self):
        if os.geteuid() != 0:
            self.skipTest("every other test runs as an ordinary user already")
        home = pathlib.Path(self.work) / "nobody"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        pathlib.Path(self.work).chmod(0o755)
        self.addCleanup(shutil.rmtree, home)
        user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        guest = ("platform=sev", "backend=model", "memory=8M", "workload=flipstorm")
        a = self.agent("A", "source", *guest, certs="", prefix=user, control=f"unix:{home}/a")
        b = self.agent("B", "destination", *guest[:3], certs="", prefix=user, control=f"unix:{home}/b",
                       listen=f"unix:{home}/in")
        self.assertEqual(fields(f"/proc/{a.process.pid}/status")["Uid"].split()[0], str(NOBODY))
        done = self.migrate("start", "--to", b.listen, agent=a, certs=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.json("verify", agent=b)["errors"], 0)


if __name__ == "__main__":
    unittest.main()
