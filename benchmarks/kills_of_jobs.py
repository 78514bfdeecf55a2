"""Kills of a job of the page, of the page, and of both; then another page shows the run and goes on with it.

The page is ``clipstill.ui.page.Page`` without a browser and without the server around it. A job is a new process, as
always.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from killing import Campaign, Kill, Verb, asked, compare, content_of, ended, fork  # isort: split

import kill_points
from clipstill.core.errors import ResourceError
from clipstill.ui.jobs import KEPT_FOLDER, Jobs

NAME = "run"
_LONGEST = 600.0


def kill_jobs(campaign: Campaign, verb: Verb, number: int) -> None:
    """Kill so many times; ``verb`` is the run that the job does."""
    case = campaign.case
    expected, changes, seconds = campaign.measure(verb)
    expected = {name: value for name, value in expected.items() if name.split("/")[0] == NAME}
    of_page = sorted(set(_changes_of_page(campaign, verb)))
    campaign.points["ui"] = len(set(changes)) + len(of_page)
    for place in range(number):
        campaign.reset(verb.start)
        arguments = verb.arguments(case)
        target = ("job", "page", "both", "page")[place % 4]
        signum = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)[place // 4 % 4]
        kill = Kill("ui", "", "", signum.name, "new" if target == "job" else "new and fork")
        if target == "job":
            at = campaign.draw.randrange(len(changes)) + 1
            kill.at, kill.when = f"job: {changes[at - 1]}", (kill_points.BEFORE, kill_points.AFTER)[place % 8 // 4]
            point = kill_points.Point(str(case / NAME), at, kill.when, signum.name)
            jobs = Jobs(case)
            with_point(point, lambda jobs=jobs, arguments=arguments: jobs.start(NAME, arguments))
            _wait(lambda jobs=jobs: jobs.own_running() is None)
            kill.code = -signum if jobs._process is None else jobs._process.returncode
            kill.broken += asked(case, lambda jobs=jobs: shown_wrong(jobs, running=False))
        else:
            _kill_page(campaign, kill, arguments, target, of_page[place // 2 % len(of_page)], seconds)
        kill.broken += asked(case, lambda arguments=arguments: truth_of_new_page(case, arguments))
        kill.code_again = asked(case, lambda arguments=arguments: go_on(case, arguments))
        if kill.code_again == 0:
            kill.broken += asked(case, lambda: finished_wrong(case))
        found = asked(case, lambda: content_of(case))
        kept = {name for name in found if name.startswith(KEPT_FOLDER)}
        compare(kill, {name: value for name, value in found.items() if name.split("/")[0] == NAME}, expected)
        kill.left += sorted(name for name in kept if "/.tmp-" in name)
        kill.in_tmp = [path.name for path in (case / "tmp").iterdir()]
        campaign.note(kill)


def with_point(point: kill_points.Point, start: Callable[[], None]) -> None:
    """Start a process of Python that ends at a point."""
    site = Path(point.folder).parents[1] / "site"
    site.mkdir(exist_ok=True)
    text = f"import sys; sys.path.insert(0, {str(Path(kill_points.__file__).parent)!r}); import kill_points\n"
    text += f"kill_points.install(kill_points.Point(**{asdict(point)!r}))\n"
    (site / "sitecustomize.py").write_text(text)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{site}:{before}"
    try:
        start()
    finally:
        os.environ["PYTHONPATH"] = before


def _changes_of_page(campaign: Campaign, verb: Verb) -> list[str]:
    """Changes of files by a page that starts a job, by their numbers."""
    case = campaign.case
    campaign.reset(verb.start)
    listed = case.with_name("changes-of-page.txt")
    listed.unlink(missing_ok=True)

    def start() -> int:
        jobs = Jobs(case)
        jobs.start(NAME, ["list", "formats"])
        assert jobs._process is not None
        return jobs._process.wait()

    assert ended(fork(case, start, kill_points.Point(str(case), listed=str(listed)))) == 0
    return [f"{number}: {change}" for number, change in enumerate(listed.read_text().splitlines(), start=1)]


def _kill_page(campaign: Campaign, kill: Kill, arguments: list[str], target: str, change: str, seconds: float) -> None:
    """Kill a page while it starts a job or at some time after, and the job too where both are to be killed."""
    case, signum = campaign.case, signal.Signals[kill.signal]

    def page() -> int:
        jobs = Jobs(case)
        jobs.start(NAME, arguments)
        while True:
            time.sleep(1)

    in_start = target == "page" and campaign.draw.random() < 0.6
    if in_start:
        kill.at, kill.when = f"page: {change}", campaign.draw.choice([kill_points.BEFORE, kill_points.AFTER])
        number = int(change.partition(":")[0])
        kill.code = ended(fork(case, page, kill_points.Point(str(case), number, kill.when, kill.signal)))
        return
    after = campaign.draw.uniform(0.1, 8.0 if target == "page" else 8.0 + seconds)
    kill.at = f"{target}: {after:.2f} s"
    process = fork(case, page)
    time.sleep(after)
    os.kill(process, signum)
    kill.code = ended(process)
    for job in jobs_of(case) if target == "both" else ():
        os.kill(job, signum)
    if target == "both":
        _wait(lambda: not jobs_of(case))


def jobs_of(case: Path) -> list[int]:
    """Processes that work on a run of this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = entry.joinpath("cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"clipstill" in words and os.fsencode(case / NAME) in words:
            found.append(int(entry.name))
    return found


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _LONGEST
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def _page(jobs: Jobs) -> dict[str, str]:
    """What the page shows, by the names of its pieces."""
    from clipstill.ui.page import Page

    pieces: dict[str, str] = Page(jobs, jobs.workspace).renew(NAME, {})[-1]
    return pieces


def shown_wrong(jobs: Jobs, *, running: bool) -> list[str]:
    """What the page says wrong of the run."""
    pieces, wrong = _page(jobs), []
    if NAME not in pieces["names"].split("\n"):
        return [f"not shown, while its job is {'running' if running else 'dead'}"]
    if ("Running</span>" in pieces["progress"]) != running:
        wrong.append(f"not shown as {'running' if running else 'stopped'}")
    if (pieces["go_on"] == "True") == running and "Finished</span>" not in pieces["progress"]:
        wrong.append(f"'Go on' is {pieces['go_on']}")
    return wrong


def truth_of_new_page(case: Path, arguments: list[str]) -> list[str]:
    """What a page that is started now shows wrong, as long as the job is running and then."""
    jobs, wrong = Jobs(case), []
    kept = case / KEPT_FOLDER / "runs" / NAME
    while running := jobs_of(case):
        found = shown_wrong(jobs, running=True)
        # A zombie, or one that has just ended, is no running job.
        if jobs_of(case) == running:
            wrong += found
            try:
                jobs.start("other", [*arguments, "--help"])
                wrong.append("a second run may start")
                jobs.stop()
            except ResourceError:
                pass
        time.sleep(1)
    if (kept / "command.json").is_file():
        # A process that ends closes its files a moment later.
        _wait(lambda: jobs.running() is None)
        wrong += shown_wrong(jobs, running=False)
    return list(dict.fromkeys(wrong))


def go_on(case: Path, arguments: list[str]) -> int:
    """Bring the run to its end by the page's buttons; return the exit code of the job."""
    jobs = Jobs(case)
    shown = _page(jobs)
    if "Finished</span>" in shown["progress"]:
        return 0
    listed = NAME in shown["names"].split("\n")
    jobs.start(NAME, jobs.command(NAME) if listed else arguments)
    assert jobs._process is not None
    return jobs._process.wait()


def finished_wrong(case: Path) -> list[str]:
    return [] if "Finished</span>" in _page(Jobs(case))["progress"] else ["not shown as finished"]
