"""Two hosts in network namespaces of their own, with a router between that drops their packets: nobody's connection ends,
nobody is told anything. Each side finds out by silence; when the network is back, recovery settles what is left."""
import concurrent.futures
import json
import os
import shutil
import subprocess
import tempfile
import unittest

from faults import Case, Run, Violation

NONE = ("platform=none", "backend=model")
SEV = ("platform=sev", "backend=model")
# Both ways, or what A says, or what B says, is lost from a point on.
CASES = [Case("source.round.live", "partition", guest=NONE),
         Case("source.send.Finish.after", "partition", guest=SEV),
         Case("source.send.Handover.before", "partition", guest=SEV),
         Case("source.send.Handover.before", "forth-lost", guest=NONE),
         Case("destination.send.Ready.before", "back-lost", guest=NONE),
         Case("journal.Taken.before", "partition", guest=SEV),
         Case("destination.send.Running.before", "back-lost", guest=NONE),
         Case("destination.send.Running.before", "healed", guest=NONE)]
HEALED_S = 3  # shorter than a side waits for a silent peer
SILENT_S = 12  # longer


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr}")


class Network:
    """A - router - B, each in a namespace of its own."""

    def __init__(self, number):
        self.number = number
        self.name = {side: f"sealift-{os.getpid()}-{number}{side}" for side in "arb"}
        self.made = []
        try:
            self._make()
        except OSError:
            self.close()
            raise

    def _make(self):
        for name in self.name.values():
            ip("netns", "add", name)
            self.made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        for side, net in (("a", 1), ("b", 2)):
            host, router = self.name[side], self.name["r"]
            ip("-n", router, "link", "add", "name", f"to-{side}", "type", "veth", "peer", "name", "net", "netns", host)
            for where, link, last in ((host, "net", 2), (router, f"to-{side}", 1)):
                ip("-n", where, "address", "add", f"10.77.{net}.{last}/24", "dev", link)
                ip("-n", where, "link", "set", link, "up")
            ip("-n", host, "route", "add", "default", "via", f"10.77.{net}.1")
        self.forward(True)

    def forward(self, on):
        subprocess.run(["ip", "netns", "exec", self.name["r"], "sh", "-c",
                        f"echo {int(on)} > /proc/sys/net/ipv4/ip_forward"], check=True)

    def lose_towards(self, side):
        """The router drops what is for that host, and says nothing."""
        ip("-n", self.name["r"], "route", "add", "blackhole", f"10.77.{dict(a=1, b=2)[side]}.2/32")

    def heal(self):
        self.forward(True)
        for net in (1, 2):
            subprocess.run(["ip", "-n", self.name["r"], "route", "delete", "blackhole", f"10.77.{net}.2/32"],
                           capture_output=True, check=False)

    def close(self):
        for name in self.made:
            ip("netns", "delete", name)


class PartitionRun(Run):
    def __init__(self, case, folder, network):
        super().__init__(case, folder)
        self.network = network
        self.a.prefix, self.b.prefix = (("ip", "netns", "exec", network.name[side]) for side in "ab")
        self.a.listen, self.b.listen = "tcp:10.77.1.2:7000", "tcp:10.77.2.2:7000"

    def _link(self):
        return self.b.listen

    def _during(self, seconds):
        self.victim.go_on()
        self._watch(seconds)

    def fault_partition(self):
        self.network.forward(False)
        self._during(SILENT_S)

    def fault_forth_lost(self):
        self.network.lose_towards("b")
        self._during(SILENT_S)

    def fault_back_lost(self):
        self.network.lose_towards("a")
        self._during(SILENT_S)

    def fault_healed(self):
        """Back before anybody gave up: nothing is lost but time."""
        self.network.forward(False)
        self._during(HEALED_S)
        self.network.heal()
        for _ in range(20):
            self._watch(0.5)
            if self.witness.states["A"] == "handed-over":
                return
        raise Violation("the migration did not go on after a short partition")

    def _heal(self):
        alone = self._recover(peer=False)  # what one side says while the other one cannot be asked
        self.network.heal()
        super()._heal()
        both = self._recover()
        opposite = {"run source": "run destination", "run destination": "run source"}
        if alone[0] in (0, 7) and both[0] in (0, 7) and opposite.get(alone[1]["verdict"]) == both[1]["verdict"]:
            raise Violation(f"alone A said {json.dumps(alone[1])}, and both say {json.dumps(both[1])}")


class PartitionTest(unittest.TestCase):
    def test_a_guest_runs_once_whatever_is_lost(self):
        probe = subprocess.run(["ip", "netns", "add", f"sealift-{os.getpid()}-probe"], capture_output=True, text=True,
                               check=False)
        if probe.returncode != 0:
            self.skipTest(f"no network namespaces here: {probe.stderr}")
        ip("netns", "delete", f"sealift-{os.getpid()}-probe")
        networks = self.networks(len(CASES))
        work = tempfile.mkdtemp(prefix="sealift-partition-")
        self.addCleanup(shutil.rmtree, work, ignore_errors=True)
        runs = [PartitionRun(case, f"{work}/{network.number}", network) for case, network in zip(CASES, networks)]
        with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:  # they wait, mostly
            wrong = [one for one in pool.map(self.carry_out, runs) if one]
        for run in runs:
            print(f"{run.case}: {run.end}, in doubt before: {run.doubt}")
        self.assertEqual(wrong, [], "\n".join(map(str, wrong)))
        self.assertEqual([run.case for run in runs if run.human], [])
        self.assertTrue(any(run.doubt for run in runs))

    def networks(self, count):
        networks = []
        for number in range(count):
            networks.append(Network(number))
            self.addCleanup(networks[-1].close)
        return networks

    @staticmethod
    def carry_out(run):
        try:
            run.carry_out()
            return None
        except (Violation, OSError, subprocess.SubprocessError) as wrong:
            return wrong


if __name__ == "__main__":
    unittest.main()
