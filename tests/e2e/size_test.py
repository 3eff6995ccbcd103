"""A 1 GiB mostly idle guest with 5 % shared pages over loopback TLS: prints what it took."""
import json
import pathlib
import time
import unittest

from agents import AgentTest

MIB = 1 << 20


class SizeTest(AgentTest):
    def extra_mib(self, agent, guest_bytes):
        """Peak resident memory of an agent above its guest's own."""
        status = pathlib.Path(f"/proc/{agent.process.pid}/status").read_text(encoding="utf-8")
        peak_kib = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        return (peak_kib * 1024 - guest_bytes) / MIB

    def test_one_gib_mostly_idle(self):
        for backend in ("model", "auto"):
            a, b = self.pair("platform=sev", f"backend={backend}", "memory=1G", "workload=idle", "shared=5")
            used = self.json("status", agent=a)["backend"]
            if backend == "auto" and used == "model":
                print("backend kvm skipped: " + self.json("status", agent=a)["backend_reason"])
                continue
            began = time.monotonic()
            done = self.start(a, b, "--json")
            took = time.monotonic() - began
            self.assertEqual(done.returncode, 0, done.stderr[-300:])
            report = json.loads(done.stdout)
            extra = [self.extra_mib(agent, 1024 * MIB) for agent in (a, b)]
            print(f"\nbackend {used}: 1 GiB idle guest in {took:.1f} s, downtime {report['downtime']['total_ms']:.1f} ms, "
                  f"{report['totals']['firmware_exports']} firmware exports; "
                  f"memory above the guest's own: source {extra[0]:.0f} MiB, destination {extra[1]:.0f} MiB")
            self.assertLessEqual(max(extra), 128)
            self.assert_same_digests(a, b)
            for agent in self.agents:
                agent.stop()
            self.agents.clear()


if __name__ == "__main__":
    unittest.main()
