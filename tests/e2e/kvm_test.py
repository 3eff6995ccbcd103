"""Migrations between two processes of guests on the real /dev/kvm; skipped with the reason where it is not usable."""
import unittest

from agents import AgentTest


class KvmTest(AgentTest):
    def setUp(self):
        super().setUp()
        probe = self.agent("probe", "destination", "memory=4M", "backend=auto")
        reason = self.json("status", agent=probe)["backend_reason"]
        if not reason.startswith("kvm:"):
            self.skipTest(reason)

    def test_sev(self):
        self.move("platform=sev", "backend=kvm", "memory=16M", "vcpus=2", source=("workload=hotset",))

    def test_none(self):
        self.move("platform=none", "backend=kvm", "memory=16M", source=("workload=sweep",))

    def test_flipstorm_under_the_older_hypercall(self):
        self.move("platform=sev", "backend=kvm", "memory=16M", "hypercall=page-enc-status",
                  source=("workload=flipstorm",))


if __name__ == "__main__":
    unittest.main()
