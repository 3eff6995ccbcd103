"""A guest on the real /dev/kvm in huge pages, moved between two processes; skipped where the host has reserved none."""
import pathlib
import unittest

from agents import AgentTest


class HugePagesTest(AgentTest):
    def test_huge_pages(self):
        # Two guests of 16 MiB.
        reserve = pathlib.Path("/proc/sys/vm/nr_hugepages")
        if int(reserve.read_text(encoding="ascii")) < 16:
            self.skipTest("fewer than 16 huge pages are reserved in /proc/sys/vm/nr_hugepages")
        probe = self.agent("probe", "destination", "memory=4M", "backend=auto")
        reason = self.json("status", agent=probe)["backend_reason"]
        if not reason.startswith("kvm:"):
            self.skipTest(reason)
        self.move("platform=sev", "backend=kvm", "memory=16M", "memory-backing=hugepages", source=("workload=random",))


if __name__ == "__main__":
    unittest.main()
