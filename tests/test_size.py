"""Flash and RAM of the firmware builds, as their linker's maps say, are within node_firmware/budget.toml."""

import subprocess
import sys
from pathlib import Path

import m4
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import size

KB = 1024
BUILDS = ("qemu-m4-plain", "qemu-m4", "qemu-m4-ble", "qemu-m4-x509", "qemu-m3")
STACK_BYTES = 10 * KB
MAP = """
Discarded input sections

 .text.unused   0x00000000       0x40 libnode_core.a(node.c.obj)

Linker script and memory map

.text           0x00000000       0x68
 *(.text .text.*)
 .text.a_function_with_a_long_name
                0x00000000       0x2e libnode_core.a(node.c.obj)
                0x00000000                a_function_with_a_long_name
 *fill*         0x0000002e        0x2
 .rodata.a.str1.1
                0x00000030       0x10 libnode_core.a(slots.c.obj)
                                 0x14 (size before relaxing)
 .rodata.b.str1.1
                0x00000040       0x10 libmbedtls.a(ssl_tls.c.obj)
 .text.b        0x00000040       0x28 libmbedtls.a(ssl_tls.c.obj)

.stack          0x20000000      0x400
 *fill*         0x20000000      0x400

.data           0x20000400        0x8 load address 0x00000068
 .data.c        0x20000400        0x8 ports/mps2/CMakeFiles/node.dir/main.c.obj

.bss            0x20000408      0x130
 .bss.node      0x20000408      0x100 ports/mps2/CMakeFiles/node.dir/main.c.obj
 COMMON         0x20000508       0x30 libnode_core.a(node.c.obj)

.debug_info     0x00000000      0x118
 .debug_info    0x00000000      0x118 libnode_core.a(node.c.obj)
"""


def test_a_map(tmp_path):
    (tmp_path / "map").write_text(MAP)
    assert size.program(tmp_path / "map") == {
        "core": size.Size(0x30, 0, 0x130),
        "updates": size.Size(0x10),
        "mbedTLS": size.Size(0x28),
        "board": size.Size(0, 8),
        "stack": size.Size(0, 0, 0x400),
        "whole": size.Size(0x68, 8, 0x530),
    }


def test_what_is_over_budget(monkeypatch):
    monkeypatch.setitem(size.BUDGET, "x", {"core": {"flash": 100, "ram": 10}, "whole": {"flash": 1_000}})
    sizes = {"core": size.Size(98, 2, 8), "lwIP": size.Size(5_000), "whole": size.Size(1_000)}
    assert size.over("x", sizes) == []
    grown = {**sizes, "core": size.Size(98, 3, 8), "whole": size.Size(2_234)}
    assert size.over("x", grown) == [
        *("x: core: flash 101 bytes, 1 over budget", "x: core: ram 11 bytes, 1 over budget"),
        "x: whole: flash 2,234 bytes, 1,234 over budget",
    ]


@pytest.fixture(params=BUILDS)
def built(request):
    """A build and its sizes."""
    try:
        return request.param, size.firmware(request.param)
    except m4.Missing as missing:
        pytest.skip(str(missing))


def test_a_firmware_is_within_its_budget(built):
    preset, sizes = built
    assert size.BUDGET[preset].keys() <= {*sizes, size.USED}
    assert size.over(preset, sizes) == []


def test_every_byte_is_counted(built):
    preset, sizes = built
    program = m4.ROOT / "build" / preset / "ports" / "mps2" / "node.elf"
    said = subprocess.run(["arm-none-eabi-size", program], capture_output=True, text=True, check=True).stdout
    assert sizes["whole"] == tuple(map(int, said.splitlines()[1].split()[:3]))


def test_the_budget_names_all_builds_and_keeps_what_was_promised():
    assert {*size.BUDGET} == {*BUILDS}
    for budget in size.BUDGET.values():
        assert {"flash", "ram"} == budget["whole"].keys()
        assert budget[size.USED]["ram"] <= STACK_BYTES * 2 // 3
    assert size.BUDGET["qemu-m4"]["whole"]["flash"] <= 160 * KB
    assert size.BUDGET["qemu-m4"]["whole"]["ram"] <= 128 * KB
