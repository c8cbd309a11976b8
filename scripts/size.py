"""`make size`: what the node takes of flash, RAM and stack, by component and by file; fails where a firmware is over node_firmware/budget.toml.

All of it is read from linkers' maps: what is linked counts, and of what is not ours only what is used. The alignment behind a piece counts
as the piece's. `stack` is the deepest that a firmware under QEMU has been.
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

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "qemu")]
import m4

BUDGET: dict[str, dict[str, dict[str, int]]] = tomllib.loads((ROOT / "node_firmware" / "budget.toml").read_text())
WHOLE = "whole"
STACK = "stack"

_PLACED = re.compile(r"^( ?\S+) +0x([0-9a-f]+) +0x([0-9a-f]+)(?: (\S+))?", re.MULTILINE)  # section, address, size, object file
_KINDS = {"text": r" [.](text|rodata|vectors|ARM[.]ex)", "data": r" [.]data", "bss": r" [.](bss|noinit)| COMMON"}  # of an input section
_COMPONENTS = {
    "updates": r"libnode_core.*\((image|verify|slots|models|settings|smp\w*)[.]c",  # what a node with one model for ever would not have
    "core": r"libnode_core",
    "engine": r"libnode_nn|[.]ltrans",  # it is optimised while linking
    "front end": r"libnode_frontend",
    "TLS": r"libnode_tls",
    "mbedTLS": r"libmbedtls",
    "Monocypher": r"libmonocypher",
    "link": r"libnode_lwip",
    "lwIP": r"liblwip",
    "board": r"[.]dir/",
    "C library": r"lib(c|gcc|m|nosys)[.]a",
}
_LENT = {"node": "core", "sense": "core", "ring": "core", "arena": "engine", "tls": "TLS", "tls_heap": "mbedTLS", "broker": "link"}  # by main.c
_OURS = ("updates", "core", "engine", "front end", "mbedTLS", "Monocypher")
_HOST = "-ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables -fno-stack-protector"
_M4 = "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16"
_ALONE = (  # programs that do nothing else
    ("engine", "m4", "m4_size_nn"),
    ("engine, without DSP", "m4-c99", "m4_size_nn"),
    ("engine, only dense layers", "m4-fc", "m4_size_nn"),
    ("audio front end", "m4", "m4_size_frontend"),
)
_STRUCTS = ("node_t", "sense_t", "image_t", "slots_t", "audio_frontend_t", "vibration_frontend_t", "clip_t")
_HEADERS = ("node/node.h", "node/frontend.h", "node/clip.h", "sense.h", "slots.h")


class Size(NamedTuple):
    """Bytes."""

    text: int = 0
    data: int = 0  # in flash and in RAM
    bss: int = 0

    @property
    def flash(self) -> int:
        return self.text + self.data

    @property
    def ram(self) -> int:
        return self.data + self.bss


class Piece(NamedTuple):
    """What an object file gave to a program."""

    section: str
    file: str
    size: Size

    @property
    def component(self) -> str:
        lent = self.section.removeprefix(".bss.") if "main.c" in self.file else ""
        return _LENT.get(lent) or next(name for name, pattern in _COMPONENTS.items() if re.search(pattern, self.file))

    @property
    def object(self) -> str:
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
        used = min(size, following - at) if following >= at else size  # strings that were said before are listed, but take nothing
        if kind and used:
            found.append(Piece(section.strip(), file, Size(**{kind: used})))
    return found


def by(key: Callable[[Piece], str], found: Iterable[Piece]) -> dict[str, Size]:
    """Sums."""
    sums: dict[str, Size] = {}
    for piece in found:
        sums[key(piece)] = total((sums.get(key(piece), Size()), piece.size))
    return sums


def total(sizes: Iterable[Size]) -> Size:
    return Size(*map(sum, zip(*sizes, strict=True)))


def firmware(preset: str) -> dict[str, Size]:
    """A firmware by component, and WHOLE. Raises m4.Missing."""
    text = (m4.build(preset, "node") / "ports" / "mps2" / "node.map").read_text()
    sizes = by(lambda piece: piece.component, pieces(text))
    return {**{name: sizes.get(name, Size()) for name in _COMPONENTS}, WHOLE: total(sizes.values())}


def over(preset: str, sizes: Mapping[str, Size]) -> list[str]:
    """What is over the budget, and by how much."""
    taken = {(name, kind): getattr(sizes[name], kind) for name, budget in BUDGET[preset].items() if name in sizes for kind in budget}
    return [
        f"{preset}: {name}: {kind} {size:,} bytes, {size - BUDGET[preset][name][kind]:,} over budget"
        for (name, kind), size in taken.items()
        if size > BUDGET[preset][name][kind]
    ]


# ---- what is printed


def _print(title: str, sizes: Mapping[str, Size], budget: Mapping[str, Mapping[str, int]] | None = None) -> None:
    print(f"\n{title:34} {'text':>9} {'data':>7} {'bss':>7}" + ("  flash of budget      RAM of budget" if budget else ""))
    for name, size in sizes.items():
        allowed = (budget or {}).get(name, {})
        of = "".join(f" {getattr(size, kind):>7} {allowed[kind]:>7}" for kind in ("flash", "ram") if kind in allowed)
        print(f"  {name:32} {size.text:>9} {size.data:>7} {size.bss:>7}{of}")


def _print_core(title: str, folder: Path, prefix: str, flags: str) -> None:
    """The core alone and what it needs, by file; and the structs that its caller keeps in RAM."""
    libraries = [next(folder.glob(f"**/lib{name}.a")) for name in ("node_core", "node_nn", "node_frontend", "mbedtls", "monocypher")]
    defined = _output(f"{prefix}nm", "-g", "--defined-only", "--format=posix", *libraries[:3])
    roots = [f"-Wl,-u,{line.split()[0]}" for line in defined.splitlines() if " " in line]
    compiler = [f"{prefix}gcc", *flags.split()]
    with tempfile.TemporaryDirectory() as name:
        mapped, source = Path(name) / "map", Path(name) / "structs.c"
        link = ("-nostartfiles", "-fno-lto", f"-Wl,--gc-sections,-e,node_init,-Map={mapped}", "-o", Path(name) / "core")
        _output(*compiler, *link, *roots, *libraries)
        found = [piece for piece in pieces(mapped.read_text()) if piece.component in _OURS]
        lines = [f'#include "{header}"' for header in _HEADERS] + [f"char size_of_{struct}[sizeof({struct})];" for struct in _STRUCTS]
        source.write_text("\n".join(lines))
        _output(*compiler, "-Inode_firmware/include", "-Inode_firmware/core", "-c", source, "-o", source.with_suffix(".o"))
        structs = re.findall(r"size_of_(\w+) \w+ \w+ (\w+)", _output(f"{prefix}nm", "--format=posix", source.with_suffix(".o")))
    _print(f"{title}: the core, all of it", by(lambda piece: piece.component, found))
    _print(f"{title}: the same by file", dict(sorted(by(lambda piece: piece.object, found).items())))
    _print(f"{title}: structs, in the caller's RAM", {struct: Size(bss=int(digits, 16)) for struct, digits in structs})


def _output(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def _stack_used(presets: Iterable[str]) -> dict[str, int]:
    import stack  # only here: it wants a broker

    with tempfile.TemporaryDirectory(prefix="test_size-") as folder:
        return asyncio.run(stack.used(presets, Path(folder)))


def main() -> None:
    host = ROOT / "build" / "size-host"
    _output("cmake", "-S", "node_firmware", "-B", host, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=MinSizeRel", f"-DCMAKE_C_FLAGS={_HOST}")
    _output("ninja", "-C", host, "node_core", "node_nn", "node_frontend", "mbedtls", "monocypher")
    _print_core("host", host, "", "")
    _print_core("Cortex-M4", m4.build("qemu-m4-plain", "node"), "arm-none-eabi-", _M4)
    for title, preset, program in _ALONE:
        mapped = m4.program(preset, program).with_suffix(".map")
        sizes = by(lambda piece: piece.component, pieces(mapped.read_text()))
        _print(f"{title}, linked", {**sizes, WHOLE: total(sizes.values())})
    too_much = []
    used = _stack_used(BUDGET)
    for preset, budget in BUDGET.items():
        sizes = {**firmware(preset), STACK: Size(bss=used[preset])}
        _print(f"firmware {preset}", sizes, budget)
        too_much += over(preset, sizes)
    sys.exit("\n".join(["", *too_much]) if too_much else 0)


if __name__ == "__main__":
    main()
