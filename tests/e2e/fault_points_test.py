"""Two agents, a fault at every named point of either, recovery: the guest runs once and never goes back.

What a run is and what it must prove is in faults.py. SEALIFT_LONG=1 runs every point with every fault."""
import collections
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from agents import AGENT
from faults import FAULTY_AGENT, Case, Host, Run, Violation

LONG = os.environ.get("SEALIFT_LONG") == "1"
WORKERS = 3  # a run waits more than it works
NONE = ("platform=none", "backend=model")
SEV = ("platform=sev", "backend=model")
KVM = ("platform=none", "backend=kvm")
SEV_ES = ("platform=sev-es", "backend=model", "sev-vmsa=on")

# Points that a migration without trouble does not pass: what leads there.
SCENARIOS = {"source.send.Abort": "cancel", "source.StopRound": "cancel-in-round", "source.Recover": "cancel",
             "journal.Kept": "cancel", "source.Throttle": "throttle", "destination.send.Abort": "cancel-there",
             "destination.Discard": "cancel-there", "journal.Discarded": "cancel-there",
             "journal.Ceded": "cede"}
GUESTS = {"source.CheckPlatform": SEV, "destination.send.PlatformCard": SEV, "destination.ApplyPrivate": SEV,
          "source.send.PlatformState": SEV_ES}
AFTERWARDS = [("journal.Taken", "recover"), ("journal.Released", "recover"), ("journal.Discarded", "restart"),
              ("journal.open", "restart")]
FAULTS = ("kill", "cut", "disk", "kill-other", "stop")


def points():
    listed = subprocess.run([FAULTY_AGENT, "--fault-points"], capture_output=True, text=True, check=True).stdout.split()
    assert len(listed) > 100, listed
    return listed


def step_of(point):
    return point.removesuffix(".before").removesuffix(".after")


def case(point, fault, platform, scenario=None):
    step = step_of(point)
    return Case(point, fault, scenario or SCENARIOS.get(step, "move"), GUESTS.get(step, platform))


def cases_of_recovery():
    """What goes wrong while what went wrong before is being settled."""
    for step, scenario in AFTERWARDS:
        for when in ("before", "after"):
            for fault in ("kill", "kill-both") if scenario == "restart" else ("kill", "kill-other", "stop", "disk"):
                yield case(f"{step}.{when}", fault, NONE, scenario)


def cases_of_disks():
    for step in ("journal.Begun", "journal.Offered", "journal.Ready", "journal.Committing", "journal.Taken"):
        for fault in ("full", "read-only"):
            yield case(f"{step}.before", fault, NONE)


def long_cases(kvm):
    for number, point in enumerate(points()):
        for turn, fault in enumerate(FAULTS):
            yield case(point, fault, (NONE, SEV)[(number // 2 + turn) % 2])
        if point.startswith("journal.") or ".send." in point:
            yield case(point, "kill-both", NONE)
        if point.startswith("journal.") and kvm:
            yield case(point, "kill", KVM)
    for step in ("source.send.Handover", "destination.send.Ready", "destination.Run", "journal.Taken", "journal.Released",
                 "source.Survey", "destination.EndEpoch", "source.Pause"):
        yield case(f"{step}.after", "silence", NONE)
    yield from cases_of_recovery()
    yield from cases_of_disks()


def short_cases(kvm):
    """Every record of the right with a death on both sides of it; every other step once; faults take turns."""
    turn = 0
    for point in points():
        if point.startswith("journal."):
            yield case(point, "kill", NONE if turn % 2 else SEV)
            turn += 1
        elif point.endswith(".before") == (turn % 2 == 0) or not point.endswith((".before", ".after")):
            yield case(point, FAULTS[turn // 2 % len(FAULTS)], NONE if turn % 4 < 2 else SEV)
        turn += point.endswith(".after")
    yield case("source.send.Handover.after", "silence", NONE)
    recovery, disks = list(cases_of_recovery()), list(cases_of_disks())
    yield from recovery[::5] + disks[::3]
    if kvm:
        yield from (case("journal.Committing.after", "kill", KVM), case("destination.send.Running.before", "cut", KVM))


class FaultPointsTest(unittest.TestCase):
    def test_a_guest_runs_once_whatever_fails_where(self):
        cases = list((long_cases if LONG else short_cases)(kvm_works()))
        self.assertGreaterEqual(len(cases), 500 if LONG else 60)
        if os.geteuid() != 0:
            cases = [one for one in cases if one.fault != "full"]  # needs a file system of its own
        work = tempfile.mkdtemp(prefix="sealift-faults-")
        self.addCleanup(shutil.rmtree, work, ignore_errors=True)
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            outcomes = list(pool.map(lambda numbered: carry_out(numbered[1], f"{work}/{numbered[0]}"), enumerate(cases)))
        print(table(cases, outcomes, time.monotonic() - began), file=sys.stderr)
        wrong = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        self.assertEqual(wrong, [], f"{len(wrong)} of {len(cases)} runs:\n" + "\n".join(map(str, wrong)))

    def test_the_agent_that_is_installed_has_no_fault_points(self):
        traces = (b"fault_point", b"--stop-at", b"--fault-points", b"source.round.live")
        shipped, faulty = pathlib.Path(AGENT).read_bytes(), pathlib.Path(FAULTY_AGENT).read_bytes()
        self.assertEqual([trace for trace in traces if trace not in faulty], [])  # the question finds them
        self.assertEqual([trace for trace in traces if trace in shipped], [])
        asked = subprocess.run([AGENT, "--fault-points"], capture_output=True, text=True, check=False)
        self.assertEqual(asked.returncode, 2, asked.stderr)

    def test_a_point_that_is_not_listed_is_refused(self):
        done = subprocess.run([FAULTY_AGENT, "--role", "source", "--control", "unix:/nowhere/x", "--stop-at", "source.Nap"],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("source.Nap", done.stderr)


def kvm_works():
    with tempfile.TemporaryDirectory(prefix="sealift-") as folder:
        host = Host(folder, "A", "source", KVM, spin=2000)
        if host.launch():
            return False
        host.kill()
        return True


def carry_out(one, folder):
    """The run, or what went wrong in it."""
    run = Run(one, folder)
    try:
        run.carry_out()
        return run
    except (Violation, OSError, subprocess.SubprocessError) as wrong:
        return wrong


def table(cases, outcomes, seconds):
    """How the runs ended, by fault."""
    runs = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    ends = sorted({run.end for run in runs})
    counts = collections.Counter((run.case.fault, run.end) for run in runs)
    lines = ["", f"{'fault':<12}" + "".join(f"{end:>34}" for end in ends)]
    for fault in sorted({one.fault for one in cases}):
        lines.append(f"{fault:<12}" + "".join(f"{counts[fault, end]:>34}" for end in ends))
    human = sum(run.human for run in runs)
    lines.append(f"{len(cases)} runs in {seconds:.0f} s; {sum(run.doubt for run in runs)} were in doubt before they were "
                 f"settled, {human} needed a human, {len(outcomes) - len(runs)} went wrong")
    return "\n".join(lines)


if __name__ == "__main__":
    unittest.main()
