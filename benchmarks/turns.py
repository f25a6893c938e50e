"""Contenders as processes that take turns, so that what else the machine does falls on all of them alike."""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


class Turns:
    """A contender's end of the pipe: it waits for its turn, and says how long it took and what was done in it.

    Args:
        updates: how many make a turn.
        framework_memory: bytes that do not count in the peak.
    """

    def __init__(self, updates, framework_memory=0):
        self.updates, self.framework_memory = updates, framework_memory
        self._begin()

    def _begin(self):
        self.began, self.processor_began, self.done = time.perf_counter(), time.process_time(), []

    def seconds(self):
        """Since the turn began."""
        return time.perf_counter() - self.began

    def after_first_update(self, **facts):
        """Reports the time since this object was made, and `facts`."""
        self._report(0, **facts)

    def after_update(self, amount):
        """To be called after each further update, with the tokens that were in it."""
        self.done.append(amount)
        if len(self.done) == self.updates:
            self._report(sum(self.done))

    def _report(self, amount, **facts):
        seconds, of_processor = self.seconds(), time.process_time() - self.processor_began
        peak = peak_memory() - self.framework_memory
        report = {"seconds": seconds, "processor_seconds": of_processor, "amount": amount, "peak_memory": peak, **facts}
        print(json.dumps(report), flush=True)
        if not sys.stdin.readline():
            sys.exit()
        self._begin()


def peak_memory():
    """Of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_memory():
    """Of this process now, in bytes: without what was freed again while it got ready."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Contender:
    """A process that works when it is told to: `script` with `arguments` and `--contender name`."""

    def __init__(self, script, name, arguments):
        command = [sys.executable, script, *arguments, "--contender", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name, self.first, self.rounds = name, self._read(), []

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def take_turn(self, counts=True):
        print(file=self.process.stdin, flush=True)
        result = self._read()
        if counts:
            self.rounds.append(result)

    def result(self):
        speeds = [r["amount"] / r["seconds"] for r in self.rounds]
        return {
            "per_second": statistics.median(speeds),
            "least": min(speeds),
            "most": max(speeds),
            "per_processor_second": statistics.median(r["amount"] / r["processor_seconds"] for r in self.rounds),
            "first_update_seconds": self.first["seconds"],
            "peak_memory_mb": self.rounds[-1]["peak_memory"] / 2**20,
        }


def take_turns(script, names, arguments, rounds):
    """The contenders after `rounds` rounds; one more before them warms up."""
    contenders = []
    for name in names:
        print(f"{name}: starting", flush=True)
        contenders.append(Contender(script, name, arguments))
    for number in range(rounds + 1):
        for contender in contenders:
            contender.take_turn(counts=number > 0)
    return contenders
