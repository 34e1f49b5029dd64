"""Fixtures of the peers suite. `lane` and the sinks are stopped, and their exit checked, at the end of each test."""

import shutil
import tempfile
from pathlib import Path

import pytest

from lab.programs import POSTLANE, ROOT
from lab.recorder import Recorder
from lab.scripted import ScriptedUpstream
from lab.server import Postlane
from lab.sinks import LaneSink, SmtpSink


def pytest_addoption(parser):
    parser.addoption("--reloads", type=int, default=200, help="reloads under load (a thorough run: 1000)")
    parser.addoption("--seed", type=int, help="repeats a run that chose its configurations at random")


def pytest_configure(config):
    if not POSTLANE.exists():
        raise pytest.UsageError(f"{POSTLANE} is not there: cargo build --release, or set POSTLANE_BIN")


@pytest.fixture
def directory(request):
    """A directory for this test's configuration, dumps and logs; kept, and named, only if it fails."""
    base = ROOT / "target/peers"
    base.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=request.node.name.split("[")[0] + "-", dir=base))
    yield path
    if getattr(request.node, "failed_in", None):
        for dump in path.glob("*.dump"):  # can be hundreds of megabytes
            if dump.stat().st_size > 10_000_000:
                dump.unlink()
        print(f"kept: {path}")
    else:
        shutil.rmtree(path)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.failed_in = report.when


class _Starter:
    """Starts things of one kind and stops them all at the end."""

    def __init__(self, start):
        self._start = start
        self.started = []

    def __call__(self, *args, **kwargs):
        thing = self._start(*args, **kwargs)
        self.started.append(thing)
        return thing

    def stop_all(self, **kwargs):
        errors = []
        for thing in self.started:
            try:
                thing.stop(**kwargs)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _starter(start):
    starter = _Starter(start)
    yield starter
    starter.stop_all()


@pytest.fixture
def smtp_sink(directory):
    """smtp_sink(*options) → SmtpSink"""
    yield from _starter(lambda *options, **kwargs: SmtpSink(directory, *options, **kwargs))


@pytest.fixture
def lane_sink(directory):
    """lane_sink(*options) → LaneSink"""
    yield from _starter(lambda *options, **kwargs: LaneSink(directory, *options, **kwargs))


@pytest.fixture
def recorder():
    """recorder(**options) → Recorder"""
    yield from _starter(Recorder)


@pytest.fixture
def scripted():
    """scripted(**options) → ScriptedUpstream"""
    yield from _starter(ScriptedUpstream)


@pytest.fixture
def lane(directory, smtp_sink, lane_sink, recorder, scripted):
    """lane(upstreams, **options) → Postlane in front of them, each a port or a thing with a port.

    It names the kinds of upstreams so as to be stopped before any of them.
    """
    ports = lambda upstreams: [getattr(upstream, "port", upstream) for upstream in upstreams]
    yield from _starter(lambda upstreams, **options: Postlane(directory, ports(upstreams), **options))


@pytest.fixture
def say(request):
    """say(text): a line for the summary at the end of the run."""
    lines = request.config.stash.setdefault(_FACTS, [])
    return lambda text: lines.append(f"{request.node.name}: {text}")


_FACTS = pytest.StashKey[list]()


def pytest_terminal_summary(terminalreporter, config):
    facts = config.stash.get(_FACTS, [])
    if facts:
        terminalreporter.section("measured on the way")
        for fact in facts:
            terminalreporter.line(fact)


def pytest_unconfigure(config):
    """The last line of the run, for whoever reads only that."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.collectonly:
        return
    count = lambda *kinds: sum(len(reporter.stats.get(kind, [])) for kind in kinds)
    line = f"{count('passed')} passed, {count('failed', 'error')} failed"
    if count("skipped"):
        line += f", {count('skipped')} skipped"
    print(f"\n{line}")
