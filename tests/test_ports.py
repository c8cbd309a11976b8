"""Ports: the core for processors that nobody here has, the template as a node on a host, and the thin ports against mock headers.

What the mock headers declare is written after the vendors' documentation; no more is proved than that a port fits to that.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from smp.error import MGMT_ERR
from smpclient import SMPClient
from smpclient.requests.os_management import EchoWrite
from test_deploy import needs
from test_node_posix import KEY
from test_node_tls import KEYS, SecureSite, packet, string

from gatewayd import provisioning, signing
from gatewayd.core.types import Info, NodeState, Provisioning, Security
from gatewayd.demo import site
from gatewayd.smp import NodeLink

ROOT = Path(__file__).parents[1]
FIRMWARE = ROOT / "node_firmware"
ARM, RISCV = "arm-none-eabi-gcc", "riscv64-unknown-elf-gcc"
PACKAGES = {
    ARM: "gcc-arm-none-eabi and libnewlib-arm-none-eabi",
    RISCV: "gcc-riscv64-unknown-elf and picolibc-riscv64-unknown-elf",
    "cmake": "cmake",
    "ninja": "ninja-build",
}
WARNINGS = ["-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only"]  # as vendors' builds have it
HEADERS = ["-I", FIRMWARE / "include", "-I", FIRMWARE / "core"]
CORTEX_M33, CORTEX_M0PLUS = ["-mcpu=cortex-m33", "-mthumb"], ["-mcpu=cortex-m0plus", "-mthumb"]
RV32 = ["-march=rv32imac", "-mabi=ilp32", "--specs=picolibc.specs"]


def need(*programs):
    """Skip where one of them, or its C library, is not installed."""
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"needs {program}: Debian's {PACKAGES[program]}")
    if RISCV in programs and os.sep not in run(RISCV, "-print-file-name=picolibc.specs"):
        pytest.skip(f"needs picolibc: Debian's {PACKAGES[RISCV]}")


def run(*command):
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def built(preset, compiler):
    """The preset's build folder, up to date."""
    need("cmake", "ninja", compiler)
    folder = ROOT / "build" / preset
    if not (folder / "build.ninja").is_file():
        run("cmake", "-S", FIRMWARE, "--preset", preset)
    run("flock", folder, "ninja", "-C", folder)
    return folder


@pytest.mark.parametrize(
    ("preset", "compiler", "machine"), [("core-m0plus", ARM, "ARM"), ("core-m33", ARM, "ARM"), ("core-rv32", RISCV, "RISC-V")]
)
def test_the_core_is_compiled_without_a_warning(preset, compiler, machine):
    folder = built(preset, compiler)
    for library in ("libnode_core.a", "core/nn/libnode_nn.a", "core/frontend/libnode_frontend.a", "tls/libnode_tls.a"):
        headers = run(compiler.replace("gcc", "readelf"), "-h", folder / library)
        assert set(re.findall(r"Class: +(\w+)", headers)) == {"ELF32"}
        assert set(re.findall(r"Machine: +(\S+)", headers)) == {machine}


def test_the_core_is_compiled_in_a_vendors_build(tmp_path):
    """One that has compiler options and an mbedTLS of its own, and takes ours as a part of it."""
    need("cmake", "ninja", ARM)
    third_party = built("core-m33", ARM) / "third_party"
    shutil.copytree(third_party / "monocypher", tmp_path / "build" / "node" / "third_party" / "monocypher")  # no network is needed then
    (tmp_path / "app.c").write_text('#include "node/node.h"\nextern node_t node;\nnode_t node;\n')
    (tmp_path / "CMakeLists.txt").write_text(f"""
        cmake_minimum_required(VERSION 3.25)
        project(vendor C)
        add_compile_options(-DVENDOR)
        add_library(mbedtls INTERFACE)
        target_include_directories(mbedtls INTERFACE {third_party}/mbedtls/include)
        set(NODE_TLS off)
        add_subdirectory({FIRMWARE} node)
        add_library(app STATIC app.c)
        target_link_libraries(app PRIVATE node_core)
    """)
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={FIRMWARE / 'cmake' / 'arm-none-eabi.cmake'}"
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", "-G", "Ninja", toolchain)
    run("ninja", "-C", tmp_path / "build", "app")
    commands = run("ninja", "-C", tmp_path / "build", "-t", "commands", "node_core")
    assert all("-DVENDOR" in line and "-Werror" not in line for line in commands.splitlines() if " -c " in line)


def sources(port):
    found = sorted((FIRMWARE / "ports" / port).rglob("*.c"))
    assert found
    return found


def mbedtls(third_party):
    """The options of ours, as node_firmware/CMakeLists.txt has them."""
    options = ["-DNODE_TLS_PSK", "-DNODE_TLS_HEAP", '-DMBEDTLS_CONFIG_FILE="mbedtls_config.h"']
    return [*options, "-isystem", third_party / "mbedtls" / "include", "-isystem", FIRMWARE / "third_party"]


# ---- the template


@pytest.mark.parametrize("flags", [[], ["-DNODE_FLASH_CHECK"]])
def test_the_template_is_compiled(flags):
    folder = built("template", ARM)
    assert (folder / "ports" / "template" / "node.elf").is_file()
    more = ["-I", FIRMWARE / "tests", "-I", FIRMWARE / "tls", *mbedtls(folder / "third_party")]
    for source in sources("template"):
        run(ARM, *CORTEX_M33, *WARNINGS, *HEADERS, *more, *flags, '-DNODE_VERSION="1.0.0"', source)


def test_an_unfinished_board_says_what_is_missing_and_stops(host_build):
    source = (FIRMWARE / "ports" / "template" / "board.c").read_text()
    functions = re.findall(r"^[a-z].*?(\w+)\(.*\)\n\{(?:(?!^\}).|\n)*?UNFINISHED\(\);\n\}", source, flags=re.MULTILINE)
    assert len(functions) == source.count("UNFINISHED();") > 20
    done = subprocess.run([host_build / "tests" / "template_unfinished"], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines() == ["not finished:", *functions]
    assert done.returncode in (-signal.SIGILL, -signal.SIGTRAP)


def test_a_host_has_flash_as_the_contract_wants_it(host_build, tmp_path):
    command = host_build / "tests" / "template_flash_check"
    done = subprocess.run([command], env={"FLASH": str(tmp_path / "flash")}, capture_output=True, text=True, check=False)
    assert done.stderr == "the flash driver does what port.h says\n"


class Board(SecureSite):
    """The template's main.c, on a board that is this computer."""

    def provision(self, **changes):
        there = {"port": self.tls_port, "security": Security.PSK, "psk": bytes.fromhex(KEYS["kitchen"]), **changes}
        node = Provisioning("kitchen", "127.0.0.1", keys=(signing.raw(KEY.public_key()),), **there)
        (self.folder / "flash").write_bytes(provisioning.flash_image(node, size_bytes=1 << 20))

    def board(self):
        self.log = self.folder / "board.log"
        return site.process([self.programs.parent.parent / "tests" / "template_node"], self.log, {"FLASH": str(self.folder / "flash")})


@pytest.fixture
def place(tmp_path, host_build):
    return Board(tmp_path, host_build)


@needs("mosquitto")
async def test_the_template_is_a_node_with_a_key(place):
    async with place.up():
        place.provision()
        async with place.board():
            await place.state(NodeState.READY)
            info = (await place.wait_for(Info))[0]
            assert (info.board, info.reset_reason, info.session) == ("template", "pin", 1)
            async with SMPClient(NodeLink(place.links, "mqtt"), "kitchen") as client:
                text = "x" * 1_400
                assert (await client.request(EchoWrite(d=text))).r == text
                assert (await client.request(EchoWrite(d="x" * 4_000))).rc == MGMT_ERR.EMSGSIZE  # it came, in pieces


@needs("mosquitto")
async def test_the_template_is_a_node_in_clear(place):
    async with place.up():
        place.provision(port=place.port, security=Security.PLAIN, psk=None, user="gatewayd", password="secret")
        async with place.board():
            await place.state(NodeState.READY)


@needs("mosquitto")
async def test_the_template_tries_again(place):
    """Another client takes its name, so the broker closes its connection."""
    async with place.up():
        place.provision()
        async with place.board():
            await place.state(NodeState.READY)
            _, writer = await asyncio.open_connection("127.0.0.1", place.port)
            login = string("kitchen") + string("gatewayd") + string("secret")
            writer.write(packet(0x10, string("MQTT") + b"\x04\xc2\x00\x3c" + login))
            await place.wait_for(Info, count=2)
            writer.close()


async def test_the_template_without_provisioning(place):
    async with place.board() as running:
        assert await running.wait() == 1
    assert place.log.read_text() == "not provisioned: see gatewayctl node flash-image\n"


# ---- the thin ports


def check(port, compiler, flags, more=()):
    """Compile a port as if its vendor's headers were the mock ones."""
    need(compiler)
    mocks = ["-I", FIRMWARE / "tests" / "mocks" / port]
    for source in sources(port):
        run(compiler, *flags, *WARNINGS, *mocks, *HEADERS, *more, '-DNODE_VERSION="1.0.0"', source)


def test_zephyr_against_mock_headers():
    check("zephyr", ARM, CORTEX_M33)


@pytest.mark.parametrize(("compiler", "flags"), [(ARM, CORTEX_M33), (RISCV, RV32)])
def test_esp_idf_against_mock_headers(compiler, flags):
    check("esp_idf", compiler, flags)


def test_pico_sdk_against_mock_headers():
    third_party = built("template", ARM) / "third_party"
    own = ["-I", FIRMWARE / "ports" / "pico_sdk", "-I", FIRMWARE / "tls", "-isystem", third_party / "lwip" / "src" / "include"]
    wifi = ["-DNODE_TLS", '-DNODE_WIFI_SSID="site"', '-DNODE_WIFI_PASSWORD="secret"']
    check("pico_sdk", ARM, CORTEX_M0PLUS, [*own, *wifi, *mbedtls(third_party)])


@pytest.mark.parametrize("port", ["zephyr", "esp_idf", "pico_sdk"])
def test_a_thin_port_says_that_it_never_ran(port):
    assert "**Compiled against mock headers only**" in (FIRMWARE / "ports" / port / "README.md").read_text()
