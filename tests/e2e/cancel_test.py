"""Cancel: bounded at every phase, whatever the other side does; after the point of no return the answer is "too late"."""
import shutil
import subprocess
import tempfile
import time
import unittest

from agents import MIGRATE
from faults import LIMIT_S, Case, Run

CANCEL_MAX_S = 2  # a second, and what a busy machine adds
# Where the silent side stands: every phase before the hand-over.
OF_DESTINATION = ("destination.send.Hello.before", "destination.GetIdentity.before", "destination.send.SessionAccept.before",
                  "destination.BeginPlatform.before", "destination.send.SessionReady.before", "destination.ApplyShared.before",
                  "destination.send.EpochAck.before", "destination.CheckAndLoad.before", "destination.send.Ready.before")
OF_SOURCE = ("source.send.PlatformStart.before", "source.round.live", "source.Survey.before", "source.SaveState.before",
             "source.send.Finish.before")
TOO_LATE = ("journal.Taken.before", "destination.Run.before", "destination.send.Running.before")


class CancelTest(unittest.TestCase):
    def setUp(self):
        self.work = tempfile.mkdtemp(prefix="sealift-cancel-")
        self.addCleanup(shutil.rmtree, self.work, ignore_errors=True)

    def standing_at(self, point):
        """A migration whose one side stands at the point, and says nothing."""
        run = Run(Case(point, "stop"), f"{self.work}/{point}")
        self.addCleanup(run.clean)
        run.until_the_point()
        return run

    def cancel(self, host):
        return subprocess.run([MIGRATE, "cancel", "--agent", f"unix:{host.control}"], capture_output=True, text=True,
                              timeout=LIMIT_S, check=False)

    def state_within(self, host, states, limit):
        began = time.monotonic()
        while (state := host.status()["state"]) not in states and time.monotonic() - began < limit:
            time.sleep(0.01)
        self.assertIn(state, states)

    def test_a_source_whose_destination_is_silent(self):
        for point in OF_DESTINATION:
            with self.subTest(point=point):
                run = self.standing_at(point)
                began = time.monotonic()
                done = self.cancel(run.a)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.state_within(run.a, ("running",), CANCEL_MAX_S)
                self.assertLess(time.monotonic() - began, CANCEL_MAX_S)
                self.assertEqual(run.a.status()["report"]["outcome"], "cancelled")
                self.assertEqual(run.a.status()["vm"]["state"], "running")
                run.b.go_on()
                self.state_within(run.b, ("empty", "holding"), LIMIT_S)
                run.clean()

    def test_a_destination_whose_source_is_silent(self):
        for point in OF_SOURCE:
            with self.subTest(point=point):
                run = self.standing_at(point)
                began = time.monotonic()
                done = self.cancel(run.b)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.state_within(run.b, ("empty",), CANCEL_MAX_S)
                self.assertLess(time.monotonic() - began, CANCEL_MAX_S)
                self.assertEqual(run.b.records()[-1:], ["Discarded"])
                run.a.go_on()
                self.state_within(run.a, ("running", "in-doubt"), LIMIT_S)
                run.clean()

    def test_a_destination_with_a_complete_copy(self):
        run = self.standing_at("journal.Committing.before")
        done = self.cancel(run.b)
        self.assertEqual(done.returncode, 3, done.stdout)
        self.assertIn("too late", done.stderr)
        run.a.go_on()
        self.state_within(run.b, ("running",), LIMIT_S)
        self.assertEqual(run.b.records()[-1:], ["Taken"])
        run.clean()

    def test_too_late(self):
        for point in TOO_LATE:
            with self.subTest(point=point):
                run = self.standing_at(point)
                done = self.cancel(run.a)
                self.assertEqual(done.returncode, 3, done.stdout)
                self.assertIn("too late", done.stderr)
                self.assertIn("runs at the destination, or, if the link is lost, is in doubt", done.stderr)
                run.b.go_on()
                self.state_within(run.a, ("handed-over",), LIMIT_S)
                self.assertIn("too late to cancel: web-1 was handed over", self.cancel(run.a).stderr)
                self.assertEqual(run.b.status()["state"], "running")
                run.clean()

    def test_in_doubt_is_too_late(self):
        run = self.standing_at("destination.send.Running.before")
        run.relay.cut()
        self.state_within(run.a, ("in-doubt",), LIMIT_S)
        done = self.cancel(run.a)
        self.assertEqual(done.returncode, 3, done.stdout)
        self.assertRegex(done.stderr, "too late to cancel.*in doubt.*migrate recover")

    def test_nothing_to_cancel(self):
        run = self.standing_at("source.send.Hello.before")
        done = self.cancel(run.b)
        self.assertEqual(done.returncode, 3, done.stdout)
        self.assertIn("no migration to cancel", done.stderr)


if __name__ == "__main__":
    unittest.main()
