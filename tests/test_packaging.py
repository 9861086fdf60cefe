import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


# ------------------------------------------------------------------------------------------------
# What is declared
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
def test_ci_uses_one_version_of_every_dependency_and_its_bounds_allow_it(python):
    environment = {**default_environment(), "python_version": python}
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(environment):
                assert pin.name not in pins
                pins[pin.name] = str(pin.specifier).removeprefix("==")
    requirements = declared_requirements()
    assert sorted(pins) == sorted({requirement.name for requirement in requirements})
    for requirement in requirements:
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def declared_requirements():
    declared = []
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign):
            value = ast.literal_eval(node.value)
            declared += value if isinstance(value, list) else sum(value.values(), [])
    assert declared
    return [Requirement(requirement) for requirement in declared]


# ------------------------------------------------------------------------------------------------
# What is installed
# ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A clone called d2detr."""
    source = tmp_path_factory.mktemp("clones") / "d2detr"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "d2detr_command.py"):
        shutil.copy(ROOT / name, source)
    for name in ("d2detr", "configs"):
        shutil.copytree(ROOT / name, source / name)
    (source / "tests").mkdir()
    shutil.copy(__file__, source / "tests")
    return source


@pytest.fixture(scope="module")
def environment(source, tmp_path_factory):
    """A virtual environment with the wheel; what that requires is found in the tests' own."""
    pip = [sys.executable, "-m", "pip"]
    options = ["--no-deps", "--no-build-isolation"]
    built = run([*pip, "wheel", *options, "--wheel-dir", source, source])
    assert built.returncode == 0, built.stderr
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    wheel = next(source.glob("*.whl"))
    done = run([*pip, "--python", folder / "bin" / "python", "install", "--no-deps", wheel])
    assert done.returncode == 0, done.stderr
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    return folder


@pytest.fixture(scope="module")
def installed(environment):
    """The folder that `pip install` put the package into."""
    return next(environment.glob("lib/python*/site-packages"))


def files(folder):
    found = (
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    )
    return {str(path.relative_to(folder)) for path in found}


def test_installed_package_holds_every_file_and_every_config(installed):
    configs = {f"configs/{name}" for name in files(ROOT / "configs")}
    assert files(installed / "d2detr") == files(ROOT / "d2detr") | configs


def test_installed_package_finds_its_configs(installed):
    code = "from d2detr.model_zoo import get_config_file as f; print(f('detr_r50.yaml'))"
    process = run([sys.executable, "-W", "ignore", "-c", code], installed)
    assert process.stdout.strip() == str(installed / "d2detr" / "configs" / "detr_r50.yaml")


def test_development_mode_works_beside_a_folder_that_is_called_like_the_package(source, tmp_path):
    code = "import sys, setuptools.build_meta as b; b.build_editable(sys.argv[1])"
    built = run([sys.executable, "-c", code, tmp_path], cwd=source)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    code = (
        "import importlib.util, site, sys; site.addsitedir(sys.argv[1]); "
        "print(importlib.util.find_spec('d2detr').origin)"
    )
    # Without this environment's own site-packages, which may hold another d2detr.
    found = run([sys.executable, "-S", "-c", code, tmp_path], cwd=source.parent)
    assert found.stdout.strip() == str(source / "d2detr" / "__init__.py")


def test_sources_hold_no_tests_and_make_the_same_wheel(source, environment, tmp_path):
    code = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
    built = run([sys.executable, "-c", code, tmp_path], cwd=source)
    assert built.returncode == 0, built.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sources:
        sources.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (unpacked / "LICENSE").is_file() and not (unpacked / "tests").exists()
    for name in ("d2detr", "configs"):
        assert files(unpacked / name) == files(ROOT / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    built = run([*pip, "--wheel-dir", tmp_path, unpacked])
    assert built.returncode == 0, built.stderr
    with (
        zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as ours,
        zipfile.ZipFile(next(source.glob("*.whl"))) as theirs,
    ):
        assert sorted(ours.namelist()) == sorted(theirs.namelist())


def test_help_of_the_wheel_needs_nothing_else(source, environment, tmp_path):
    venv.create(tmp_path, symlinks=True)
    with zipfile.ZipFile(next(source.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "wheel")
    code = "import d2detr_command as c, sys; sys.argv = ['d2detr', 'train', '--help']; c.main()"
    done = run([tmp_path / "bin" / "python", "-c", code], tmp_path / "wheel")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: d2detr train")


def test_installed_command_works(environment, tmp_path):
    command = environment / "bin" / "d2detr"
    assert run([command, "--version"]).stdout.startswith("d2detr 0.")
    line = "analyze --tasks parameter --config-file quickstart.yaml MODEL.DETR.NUM_CLASSES 3"
    done = run([command, *line.split()], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "transformer" in done.stdout


def test_installed_command_without_detectron2_says_how_to_get_it(environment, tmp_path):
    (tmp_path / "detectron2.py").write_text("raise ModuleNotFoundError(name='detectron2')")
    command = environment / "bin" / "d2detr"
    done = run([command, "plot", "a"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: d2detr needs Detectron2, which is not installed")


def test_import_without_detectron2_says_how_to_get_it(installed):
    code = "import sys; sys.modules['detectron2'] = None; import d2detr"
    process = run([sys.executable, "-c", code], installed)
    assert process.returncode == 1
    assert "ImportError: d2detr needs Detectron2, which is not installed" in process.stderr


def run(command, python_path=None, cwd="/", **environment):
    environment = {**os.environ, "PYTHONPATH": str(python_path or ""), **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


# ------------------------------------------------------------------------------------------------
# tools/setup_env.sh
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "tools").mkdir()
    for name in ("setup.py", "constraints.txt", "tools/setup_env.sh", "tools/show_help.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "python, message",
    [
        ('[ "$1" = -V ] && echo Python 3.9.1 || exit 1', "is Python 3.9.1, d2detr needs 3.10"),
        ('case "$2" in *venv*) exit 1;; esac', "lacks venv or pip"),
        (None, "there is no"),
    ],
)
def test_setup_names_what_is_wrong_with_python(checkout, python, message):
    if python:
        write_script(checkout / "python", python)
    process = run_setup(checkout, PYTHON=str(checkout / "python"), VIRTUAL_ENV="")
    assert process.returncode == 1
    assert "[set-up] error: " in process.stderr
    assert message in process.stderr


def test_setup_installs_once_and_again_when_the_dependencies_change(checkout):
    environment, installs = checkout / "environment", checkout / "installs"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "activate").touch()
    record = f'[ "$3" = install ] && {{ echo "$@" >> {installs}; exit; }}'
    has_detectron2 = 'case "$*" in *model_zoo*) exit;; esac'
    python = f'{record}\n{has_detectron2}\nexec {sys.executable} "$@"'
    write_script(environment / "bin" / "python", python)

    def installs_d2detr():
        installs.write_text("")
        process = run_setup(checkout, VIRTUAL_ENV=str(environment))
        assert process.returncode == 0, process.stderr
        return f"--editable {checkout}[draw,report,test]" in installs.read_text()

    assert installs_d2detr()
    assert not installs_d2detr()
    (checkout / "constraints.txt").write_text("numpy==2.0.0")
    assert installs_d2detr()


def test_setup_refuses_extras_that_do_not_exist(checkout):
    process = run_setup(checkout, "SOLVER.MAX_ITER")
    assert process.returncode == 1
    assert "there are no extras named 'SOLVER.MAX_ITER'" in process.stderr


def test_quick_start_keeps_its_arguments_from_the_setup(checkout):
    shutil.copy(ROOT / "tools" / "quickstart.sh", checkout / "tools")
    write_script(checkout / "tools" / "setup_env.sh", 'echo "for the set-up: $*."; exit')
    process = run(["bash", checkout / "tools" / "quickstart.sh", "SOLVER.MAX_ITER", "9"])
    assert process.stdout == "for the set-up: .\n"


def run_setup(checkout, extra="test", **environment):
    return run(["bash", checkout / "tools" / "setup_env.sh", extra], ROOT, **environment)


def write_script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
