"""Swaps of two releases under steady load, with releases among them that must be refused.

Each answer is compared with what its release answered to the same request before: an answer that two releases made
together shares few items with it. The two have to be of different training runs, or nothing would be shown.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from pinrec_client import PinRecClient, Recommendations, RecommendRequest

from benchmarks.operation.drill import Row, Setting, releases_in, swap, wait_until
from benchmarks.operation.load import OK, Load, Sent, p99
from benchmarks.server import Served
from pinrec_core.errors import ConfigError
from pinrec_core.release.current import current_release, point_current
from pinrec_core.release.manifest import FILES, ID_EMBEDDER, INDEX, MANIFEST_FILE, MODEL

SWAPS = 30
SHARE = 0.5
"""Of the saturation of the slower of the two releases, which serves half of the time."""
SAME_SHARE = 0.9
"""Of the items, above which an answer is the one of its release. It need not be all of them: what a request gets
depends a little on the batch that it is served in, and near-equal items change places."""
DIFFERENT_SHARE = 0.85
"""Of the items, on average, below which two releases can be told apart. What a generator of one release finds in the
index of another shares next to none, because their items lie elsewhere."""
NOW = 2_000_000_000  # every request is of this moment, so that its history never changes


def damage(folder: Path, part: str) -> None:
    path = folder / FILES[part]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.unlink()  # the file is a link to that of the good release
    path.write_bytes(data)


def truncate(folder: Path) -> None:
    path = folder / FILES[INDEX]
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    path.write_bytes(half)


def other_format(folder: Path) -> None:
    path = folder / MANIFEST_FILE
    text = path.read_text("utf-8")
    path.unlink()
    path.write_text(text.replace('"format": ', '"format": 9'), "utf-8")


BAD: dict[str, Callable[[Path], None]] = {
    "damaged weights": lambda folder: damage(folder, MODEL),
    "damaged ID tables": lambda folder: damage(folder, ID_EMBEDDER),
    "half an index": truncate,
    "no manifest": lambda folder: (folder / MANIFEST_FILE).unlink(),
    "another format": other_format,
}


def run(setting: Setting) -> list[Row]:
    swaps = 3 if setting.quick else SWAPS
    with tempfile.TemporaryDirectory(dir=setting.releases.parent, prefix=".drill-") as folder:
        releases = Path(folder)
        good = _two_releases(setting.releases, releases)
        setting = replace(setting, releases=releases)
        requests = setting.requests(seed=7, request_time=NOW)[:32]
        with setting.server() as server, Load(server.url, requests, keep_answers=True) as load:
            expected, saturation = {}, {}
            for release in reversed(good):
                _serve(server, releases, release)
                expected[release] = _answers(server, requests)
                setting.progress(f"saturation of {release}")
                saturation[release] = load.closed(32, 2.0 if setting.quick else 8.0)
            shared = fmean(_shared(one, other) for one, other in zip(*expected.values(), strict=True))
            if shared > DIFFERENT_SHARE:
                raise ConfigError(f"the two releases share {shared:.0%} of their items: take two training runs")
            rate = SHARE * min(saturation.values())
            before = []
            for release in good:
                _serve(server, releases, release)
                setting.progress(f"{rate:.0f} requests/s to {release}, before any swap under load")
                before += load.at_rate(rate, 3.0 if setting.quick else 30.0)
            started = len(load.sent)
            with load.beside(rate):
                periods = _swap_to_and_fro(setting, server, releases, good, swaps)
            sent = load.sent[started:]
    during = [s for s in sent if any(begin <= s.due <= end for begin, end, _ in periods)]
    refused = sum(verdict == "refused" for *_, verdict in periods)
    return [
        {
            "swaps": swaps, "bad releases": len(BAD), "bad refused": refused,
            "requests": len(sent), "failed": sum(s.status != OK for s in sent),
            "mixed": sum(_is_mixed(s, expected) for s in sent if s.status == OK),
            "before p99 ms": p99(before), "during p99 ms": p99(during), "p99 ratio": p99(during) / p99(before),
            "swap s": max(end - begin for begin, end, verdict in periods if verdict == "swapped"),
            "rate /s": rate, "saturations /s": [round(saturation[release], 1) for release in good],
        }
    ]  # fmt: skip


def _two_releases(given: Path, releases: Path) -> list[str]:
    """Link the two newest releases of ``given`` into ``releases``; the newest serves first."""
    found = releases_in(given)[-2:]
    if len(found) < 2:
        raise ConfigError(f"{given}: expected two releases, of two training runs of one dataset")
    for release in found:
        shutil.copytree(release, releases / release.name, copy_function=_link)
    point_current(releases, found[1].name)
    return [release.name for release in found]


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _serve(server: Served, releases: Path, release: str) -> None:
    if current_release(releases).name != release:
        _swap_to(server, releases, release)


def _answers(server: Served, requests: list[RecommendRequest]) -> list[Recommendations]:
    """What the release that serves answers, alone."""
    with PinRecClient(server.url, timeout=30.0) as client:
        return [client.send(request) for request in requests]


def _swap_to_and_fro(
    setting: Setting, server: Served, releases: Path, good: list[str], swaps: int
) -> list[tuple[float, float, str]]:
    """Begin, end and verdict of every attempt."""
    bad = dict(BAD)
    periods = []
    for number in range(swaps):
        setting.progress(f"swap {number + 1} of {swaps}")
        other = current_release(releases).name
        serving = next(release for release in good if release != other)
        periods.append(_swap_to(server, releases, serving))
        time.sleep(1.0)
        if bad and (number % max(swaps // len(BAD), 1) == 0 or number == swaps - 1):
            for what in list(bad)[: 1 if number < swaps - 1 else None]:
                setting.progress(f"a release with {what}")
                copy = releases / f"bad-{len(bad)}"
                shutil.copytree(releases / other, copy, copy_function=_link)  # of the one that serves nothing is read
                bad.pop(what)(copy)
                periods.append(_swap_to(server, releases, copy.name))
                point_current(releases, serving)
    return periods


def _swap_to(server: Served, releases: Path, release: str) -> tuple[float, float, str]:
    begin = time.perf_counter()
    said = len(server.said())
    point_current(releases, release)
    swap(server)
    words = {"swapped": f"serving {release}", "refused": "swap failed"}
    wait_until(lambda: any(word in server.said()[said:] for word in words.values()), f"swap to {release}")
    verdict = next(verdict for verdict, word in words.items() if word in server.said()[said:])
    return begin, time.perf_counter(), verdict


def _is_mixed(sent: Sent, expected: dict[str, list[Recommendations]]) -> bool:
    answer = sent.recommendations()
    of_release = expected[answer.release]
    return _shared(answer, of_release[sent.number % len(of_release)]) < SAME_SHARE


def _shared(one: Recommendations, other: Recommendations) -> float:
    items = [{item.item_id for item in answer.items} for answer in (one, other)]
    return len(items[0] & items[1]) / max(len(items[0]), 1)
