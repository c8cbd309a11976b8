"""The engine by itself: the program in its README is built as it says there, and computes what TFLM does."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "node_firmware/core/nn/README.md").read_text()
MODEL = ROOT / "cascades/vibration/node.tflite"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path):
    """One in which the README's commands find what they name, and leave nothing behind."""
    for name in ("node_firmware", "cascades"):
        (tmp_path / name).symlink_to(ROOT / name)
    (program,) = blocks("c")
    (tmp_path / "example.c").write_text(program)
    return tmp_path


def run(folder, model="cascades/vibration/node.tflite"):
    (commands,) = blocks("sh")
    strict = commands.replace(" -Os ", " -Os -Wall -Wextra -Wconversion -Werror ").replace("cascades/vibration/node.tflite", model)
    return subprocess.run(["sh", "-e", "-c", strict], cwd=folder, capture_output=True, text=True, check=False)


def test_the_example_does_what_tflm_does(folder):
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite-micro has wheels for x86-64 only")
    done = run(folder)
    assert (done.returncode, done.stderr) == (0, "")
    interpreter = runtime.Interpreter.from_file(str(MODEL))
    about_input, about_output = interpreter.get_input_details(0), interpreter.get_output_details(0)
    zero = about_input["quantization_parameters"]["zero_points"][0]
    interpreter.set_input(np.full(about_input["shape"], zero, np.int8), 0)
    interpreter.invoke()
    scale, zero = (about_output["quantization_parameters"][key][0] for key in ("scales", "zero_points"))
    expected = np.float32(scale) * (interpreter.get_output(0).ravel().astype(np.float32) - zero)
    assert [f"{value:g}" for value in expected] == done.stdout.split()


def test_a_file_that_is_no_model_is_refused_with_words(folder):
    done = run(folder, "example.c")
    assert (done.returncode, done.stdout) == (1, "not a model, or an offset leads outside it\n")
