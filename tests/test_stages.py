"""What long work says where there is no terminal."""

import io

from rich.console import Console

from sfumato.commands import stages


def test_lines_tell_count_rate_and_the_time_that_is_left(monkeypatch):
    clock = iter((0.0, 5.0, 11.0, 15.0, 30.0, 41.0))
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(clock))
    out = io.StringIO()
    with stages.stages(Console(file=out, force_terminal=False)) as stage:
        show = stage("drawing")  # at 0 s
        show(50, 440)  # at 5 s: too early for a line
        show(110, 440)  # at 11 s, 10 a second: 33 s are left
        show(10, 1220)  # at 15 s a new count begins
        show(20, 1220)  # at 30 s: 20 in 15 s, so that 1,200 take 15 min
        show(1220, 1220)  # at 41 s
    assert out.getvalue().splitlines() == [
        "drawing: 110 of 440  10/s  0 min 33 s left",
        "drawing: 20 of 1,220  1.33/s  15 min 0 s left",
        "drawing: 1,220 of 1,220  46.9/s  0 min 0 s left",
    ]


def test_a_stage_without_a_count_says_nothing_where_there_is_no_terminal():
    out = io.StringIO()
    with stages.stages(Console(file=out, force_terminal=False)) as stage:
        stage("timing")
    assert out.getvalue() == ""
