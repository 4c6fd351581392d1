"""Why a child died: from its status, its last words and the kernel's counters."""

from pathlib import Path

import pytest

from sdistrib import limits
from sdistrib_worker.engine import death
from sdistrib_worker.engine.death import OomKills, says_out_of_memory, signal_name, tail, verdict

ABORT_DUMP = [
    "ggml.c:2201: GGML_ASSERT(x) failed",
    "Fatal Python error: Aborted",
    "",
    "Thread 0x00007f0000000001 (most recent call first):",
    '  File "a.py", line 1 in other',
    "",
    "Current thread 0x00007f0000000000 (most recent call first):",
    *(f'  File "b.py", line {n} in mine' for n in range(9)),
    "",
    "Extension modules: msgspec._core (total: 1)",
]


def test_faulthandlers_dump_is_cut_down_to_the_place_of_the_crash_and_the_engine_speaks_last():
    assert tail(ABORT_DUMP) == (
        "Fatal Python error: Aborted",
        '  File "b.py", line 0 in mine',
        '  File "b.py", line 1 in mine',
        '  File "b.py", line 2 in mine',
        "ggml.c:2201: GGML_ASSERT(x) failed",
    )
    many = [f"line {n}" for n in range(limits.LOG_TAIL_LINES)]
    full = tail([*many, *ABORT_DUMP])
    assert len(full) == limits.LOG_TAIL_LINES
    assert full[4:] == (*many[-(limits.LOG_TAIL_LINES - 5) :], ABORT_DUMP[0])


@pytest.mark.parametrize("count", [limits.LOG_TAIL_LINES, limits.LOG_TAIL_LINES + 1])
def test_the_tail_keeps_the_last_lines(count: int) -> None:
    lines = [str(n) for n in range(count)]
    assert tail(lines) == tuple(lines[-limits.LOG_TAIL_LINES :])
    assert tail(["x" * (limits.TEXT_CHARS_MAX + 1)]) == ("x" * limits.TEXT_CHARS_MAX,)


@pytest.mark.parametrize(
    "line",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "ggml_gallocr_reserve_n_impl: failed to allocate CPU buffer of size 436469824",
        "CUDA error: out of memory",
        "vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
        "MemoryError",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_every_way_of_running_out_of_memory_is_known(line: str) -> None:
    assert says_out_of_memory(["fine", line])
    assert verdict(-6, [line], "while decoding", "", "").code == "out_of_memory"
    assert verdict(1, [line], "while decoding", "", "").code == "out_of_memory"
    assert not says_out_of_memory(["total params memory size = 18.07MB"])


def test_a_kill_by_the_kernel_needs_its_counter() -> None:
    killed = verdict(-9, [], "while sampling", "oom_kill in /proc/vmstat", "")
    assert (killed.code, killed.signal) == ("out_of_memory", "SIGKILL")
    assert verdict(-9, [], "while sampling", "", "").code == "engine_crashed"
    assert (
        verdict(-11, [], "while sampling", "oom_kill in /proc/vmstat", "").code == "engine_crashed"
    )


def test_what_we_found_garbled_is_said_first() -> None:
    info = verdict(-9, ["bad_alloc"], "while sampling", "oom_kill", "its stream is garbled")
    assert info.code == "engine_crashed"
    assert "garbled" in info.message


def test_signals_without_a_name_have_their_number() -> None:
    assert (signal_name(0), signal_name(3), signal_name(-11)) == ("", "", "SIGSEGV")
    assert signal_name(-37) == "signal 37"


def test_the_counter_that_rises_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, machine = tmp_path / "memory.events", tmp_path / "vmstat"
    group.write_text("low 0\noom 3\noom_kill 1\noom_group_kill 0\n")
    machine.write_text("nr_free_pages 1\noom_kill 7\n")
    monkeypatch.setattr(death, "_counter_files", lambda _: [group, machine])
    kills = OomKills(1)
    assert kills.risen() == ""
    machine.write_text("oom_kill 8\n")
    assert kills.risen() == f"oom_kill in {machine}"
    group.write_text("oom_kill 2\n")
    assert kills.risen() == f"oom_kill in {group}"
    group.unlink()
    machine.write_text("no such word\n")
    assert kills.risen() == ""


def test_a_process_that_is_gone_leaves_the_machines_counter() -> None:
    assert [file.name for file in death._counter_files(2**22 + 1)] == ["vmstat"]
