"""`make size`: what the node takes of flash, RAM and stack, by component and file. Fails where a firmware is over its budget.

All of it is read from linkers' maps: what is linked counts, and of what is not ours only what is used. What aligns the next piece counts as
the one before.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("tests", "tests/qemu")]
import m4
import place
import test_high_water

BUDGET: dict[str, dict[str, dict[str, int]]] = tomllib.loads((m4.ROOT / "node_firmware" / "budget.toml").read_text())
WHOLE, USED = "whole", "stack used"

_PLACED = re.compile(r"^( ?\S+) +0x([0-9a-f]+) +0x([0-9a-f]+)(?: (\S+))?", re.MULTILINE)  # section, address, size, object file
_KINDS = {"text": r" [.](text|rodata|vectors|ARM[.]ex)", "data": r" [.]data", "bss": r" [.](bss|noinit)| COMMON|[.]stack"}
_COMPONENTS = {
    "Bluetooth": r"libnode_(radio|core.*\((beacon|ble\w*|improv|segments)[.])",
    "core": r"libnode_core.*\((?!(image|verify|slots|models|settings|smp\w*)[.])",
    "updates": r"libnode_core",  # what a node with one model for ever would not have
    "engine": r"libnode_nn|[.]ltrans",  # it is optimised while linking
    "front end": r"libnode_frontend",
    "TLS": r"libnode_tls",
    "mbedTLS": r"libmbedtls",
    "Monocypher": r"libmonocypher",
    "link": r"libnode_lwip",
    "lwIP": r"liblwip",
    "board": r"[.]dir/",
    "C library": r"lib(c|gcc|m|nosys)[.]a",
    "stack": r"^$",  # what is reserved
}
_LENT = {  # by main.c, to whom it counts
    "node": "core",
    "sense": "core",
    "ring": "core",
    "arena": "engine",
    "tls": "TLS",
    "tls_heap": "mbedTLS",
    "broker": "link",
    "radio": "Bluetooth",
}
_ALONE = (  # programs that do nothing else
    ("engine", "m4", "m4_size_nn"),
    ("engine, without DSP", "m4-c99", "m4_size_nn"),
    ("engine, only dense layers", "m4-fc", "m4_size_nn"),
    ("audio front end", "m4", "m4_size_frontend"),
)
_CORE = ("node_core", "node_nn", "node_frontend", "mbedtls", "monocypher")
_HOST = "-ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables -fno-stack-protector"
_M4 = "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16"
_STRUCTS = ("node_t", "sense_t", "image_t", "slots_t", "audio_frontend_t", "vibration_frontend_t", "clip_t")
_HEADERS = ("node/node.h", "node/frontend.h", "node/clip.h", "sense.h", "slots.h")


class Size(NamedTuple):
    """Bytes. `data` is in flash and in RAM."""

    text: int = 0
    data: int = 0
    bss: int = 0

    @property
    def flash(self) -> int:
        """Bytes."""
        return self.text + self.data

    @property
    def ram(self) -> int:
        """Bytes."""
        return self.data + self.bss


class Piece(NamedTuple):
    """What an object file gave to a program."""

    section: str
    file: str
    size: Size

    @property
    def component(self) -> str:
        """A name of _COMPONENTS."""
        lent = self.section.removeprefix(".bss.") if "main.c" in self.file else ""
        return _LENT.get(lent) or next(name for name, pattern in _COMPONENTS.items() if re.search(pattern, self.file))

    @property
    def object(self) -> str:
        """Library and file."""
        return re.sub(r"^.*/(?:lib)?|[.]a(?=\()|[.]o(bj)?(?=\)|$)", "", self.file)


def pieces(linked: str) -> list[Piece]:
    """What a linker's map says."""
    placed = re.sub(r"^( ?\S+)\n +0x", r"\1 0x", linked.partition("Linker script and memory map")[2], flags=re.MULTILINE)
    lines = [(section, int(at, 16), int(size, 16), file) for section, at, size, file in _PLACED.findall(placed)]
    found: list[Piece] = []
    section, file = "", ""
    for (named, at, size, of), (_, following, *_) in zip(lines, [*lines[1:], lines[-1]], strict=True):
        if named != " *fill*":
            section, file = named, of
        kind = next((kind for kind, pattern in _KINDS.items() if re.match(pattern, section)), None)
        used = min(size, following - at) if following >= at else size  # a string that was said before is listed, but takes nothing
        if kind and used:
            found.append(Piece(section.strip(), file, Size(**{kind: used})))
    return found


def total(sizes: Iterable[Size]) -> Size:
    """Their sum."""
    return Size(*map(sum, zip(*sizes, strict=True)))


def by(key: Callable[[Piece], str], found: Iterable[Piece]) -> dict[str, Size]:
    """Sums, in the order of their names."""
    sums: dict[str, list[Size]] = {}
    for piece in found:
        sums.setdefault(key(piece), []).append(piece.size)
    return {name: total(sums[name]) for name in sorted(sums)}


def program(linked: Path) -> dict[str, Size]:
    """By component, and WHOLE."""
    sizes = by(lambda piece: piece.component, pieces(linked.read_text()))
    return {**{name: sizes[name] for name in _COMPONENTS if name in sizes}, WHOLE: total(sizes.values())}


def firmware(preset: str) -> dict[str, Size]:
    """The same of a firmware, up to date. Raises m4.Missing."""
    return program(m4.build(preset, "node") / "ports" / "mps2" / "node.map")


def over(preset: str, sizes: Mapping[str, Size]) -> list[str]:
    """What is over the budget, and by how much."""
    taken = [(name, kind, getattr(sizes[name], kind), most) for name in sizes for kind, most in BUDGET[preset].get(name, {}).items()]
    return [f"{preset}: {name}: {kind} {size:,} bytes, {size - most:,} over budget" for name, kind, size, most in taken if size > most]


# ---- what is printed


def _print(title: str, sizes: Mapping[str, Size], budget: Mapping[str, Mapping[str, int]] | None = None) -> None:
    print(f"\n{title:44} {'text':>7} {'data':>7} {'bss':>7}" + (f" {'flash':>9} {'of':>7} {'RAM':>9} {'of':>7}" if budget else ""))
    for name, size in sizes.items():
        print(f"  {name:42} {size.text:>7} {size.data:>7} {size.bss:>7}", end="")
        for kind in ("flash", "ram") if budget else ():
            print(f" {getattr(size, kind):>9} {(budget or {}).get(name, {}).get(kind, ''):>7}", end="")
        print()


def _print_core(title: str, folder: Path, prefix: str, flags: str) -> None:
    """All of the core and what it needs, and the structs that its caller keeps in RAM."""
    libraries = [next(folder.glob(f"**/lib{name}.a")) for name in _CORE]
    defined = _output(f"{prefix}nm", "-g", "--defined-only", "--format=posix", *libraries[:3])
    roots = [f"-Wl,-u,{line.split()[0]}" for line in defined.splitlines() if " " in line]
    compiler = [f"{prefix}gcc", *flags.split()]
    with tempfile.TemporaryDirectory() as name:
        linked, source = Path(name) / "map", Path(name) / "structs.c"
        link = ("-nostartfiles", "-fno-lto", f"-Wl,--gc-sections,-e,node_init,-Map={linked}", "-o", Path(name) / "core")
        _output(*compiler, *link, *roots, *libraries)
        found = [piece for piece in pieces(linked.read_text()) if any(f"lib{name}.a" in piece.file for name in _CORE)]
        lines = [f'#include "{header}"' for header in _HEADERS] + [f"char size_of_{struct}[sizeof({struct})];" for struct in _STRUCTS]
        source.write_text("\n".join(lines))
        _output(*compiler, "-Inode_firmware/include", "-Inode_firmware/core", "-c", source, "-o", source.with_suffix(".o"))
        structs = re.findall(r"size_of_(\w+) \w+ \w+ (\w+)", _output(f"{prefix}nm", "--format=posix", source.with_suffix(".o")))
    _print(f"{title}: the core and what it needs, -Os", by(lambda piece: piece.component, found))
    _print(f"{title}: the same by file", by(lambda piece: piece.object, found))
    _print(f"{title}: structs, in the caller's RAM", {struct: Size(bss=int(digits, 16)) for struct, digits in structs})


def _output(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=m4.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


async def _used(folder: Path) -> dict[str, int]:
    models, used = place.models(folder), {}
    for preset in BUDGET:
        (folder / preset).mkdir()
        used[preset] = await test_high_water.used(preset, models, folder / preset)
    return used


def main() -> None:
    """Print all tables, then what is over budget."""
    host = m4.ROOT / "build" / "size-host"
    _output("cmake", "-S", "node_firmware", "-B", host, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=MinSizeRel", f"-DCMAKE_C_FLAGS={_HOST}")
    _output("ninja", "-C", host, *_CORE)
    _print_core("host", host, "", "")
    _print_core("Cortex-M4", m4.build("qemu-m4-plain", "node"), "arm-none-eabi-", _M4)
    for title, preset, name in _ALONE:
        _print(f"{title}, linked", program(m4.program(preset, name).with_suffix(".map")))
    with tempfile.TemporaryDirectory(prefix="test_size-") as folder:
        used = asyncio.run(_used(Path(folder)))
    too_much = []
    for preset, budget in BUDGET.items():
        sizes = {**firmware(preset), USED: Size(bss=used[preset])}
        _print(f"firmware {preset}", sizes, budget)
        too_much += over(preset, sizes)
    sys.exit("\n".join(["", *too_much]) if too_much else 0)


if __name__ == "__main__":
    main()
