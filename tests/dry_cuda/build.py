"""The dry run's libraries, built by g++ from the sources beside this file for the torch at hand."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent
NEEDED = ("runtime.cpp", "driver.cpp", "libraries.cpp", "include/crt/host_defines.h", "build.py")
LEAST_CUDA = 13  # whose signatures runtime.cpp has
# Torch's libraries that import from CUDA's.
IMPORTING = ("libc10_cuda.so", "libtorch_cuda.so", "libtorch_python.so", "libtorch_cuda_linalg.so")
RUNTIME = re.compile(r"(__)?cuda[A-Z]\w*")
LIBRARY = re.compile(r"(cublas|cudnn)[A-Z]\w*")
PRODUCT = re.compile(r"cublas\w*([Gg]em[mv]|[Dd]ot|trsm|getr[fs]|geqrf|gels)\w*")  # handle first


def site_packages() -> Path:
    """Return the folder in which torch and NVIDIA's wheels are installed."""
    found = importlib.util.find_spec("torch")
    assert found is not None and found.origin is not None, "torch is installed"
    return Path(found.origin).parents[1]


def headers() -> Path | None:
    """Return the folder of CUDA's runtime headers, which a CUDA wheel of torch brings; or None."""
    found = sorted((site_packages() / "nvidia").glob("*/include/cuda_runtime_api.h"))
    return found[-1].parent if found else None


def cuda_version(folder: Path) -> int:
    """Return the major version of the CUDA whose runtime headers are in a folder."""
    text = (folder / "cuda_runtime_api.h").read_text()
    found = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", text)
    assert found is not None, "the headers say their version"
    return int(found[1]) // 1000


def why_not() -> str | None:
    """Say why there can be no dry run here; None where there can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the dry run needs Linux on x86-64, and this is {sys.platform} {platform.machine()}"
    missing = [name for name in ("g++", "nm") if shutil.which(name) is None]
    if missing:
        return f"the dry run needs {' and '.join(missing)}"
    found = headers()
    if not (site_packages() / "torch/lib/libtorch_cuda.so").is_file() or found is None:
        return "the dry run needs a CUDA wheel of torch, and the installed torch is another one"
    if (version := cuda_version(found)) < LEAST_CUDA:
        return f"the dry run needs torch for CUDA {LEAST_CUDA}, and this one is for CUDA {version}"
    return None


def built(cache: Path) -> Path:
    """Return the folder of libcuda.so.1 and libdrycuda.so, built in `cache` unless they are there.

    Raises:
        RuntimeError: g++ refuses the sources, with its message.
    """
    torch_lib = site_packages() / "torch/lib"
    key = hashlib.sha256("".join(str(_stamp(torch_lib / name)) for name in IMPORTING).encode())
    for name in NEEDED:
        key.update((SOURCES / name).read_bytes())
    folder = cache / key.hexdigest()[:16]
    if folder.is_dir():
        return folder
    own = cache / f"{folder.name}.{os.getpid()}"
    own.mkdir(parents=True)
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-I", str(SOURCES / "include")]
    flags += ["-I", str(headers())]
    for name in ("runtime", "libraries"):
        _compile([*flags, "-c", str(SOURCES / f"{name}.cpp"), "-o", str(own / f"{name}.o")])
    ours = [own / name for name in ("runtime.o", "libraries.o")]
    written = {name for path in ours for name in _symbols(path, "--defined")}
    wanted = {name for file in IMPORTING for name in _symbols(torch_lib / file, "--undefined")}
    (own / "rest.cpp").write_text(_rest(sorted(wanted - written)))
    parts = [str(path) for path in (*ours, own / "rest.cpp")]
    _compile([*flags, *parts, "-o", str(own / "libdrycuda.so"), "-lpthread"])
    driver = ["-Wl,-soname,libcuda.so.1", str(SOURCES / "driver.cpp")]
    _compile([*flags, *driver, "-o", str(own / "libcuda.so.1")])
    (own / "libcuda.so").symlink_to("libcuda.so.1")
    try:
        own.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(own)
    return folder


def _stamp(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns


def _compile(arguments: list[str]) -> None:
    done = subprocess.run(["g++", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"g++ {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")


def _symbols(path: Path, which: str) -> set[str]:
    """Return the names of CUDA that a file defines or imports, without their versions."""
    dynamic = ["-D"] if path.suffix == ".so" else []
    command = ["nm", *dynamic, f"{which}-only", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = {line.split()[-1].partition("@")[0] for line in lines if line}
    return {name for name in names if RUNTIME.fullmatch(name) or LIBRARY.fullmatch(name)}


def _rest(names: list[str]) -> str:
    """Return the source of the functions that torch imports and nobody wrote.

    Those of cuBLAS and cuDNN succeed; a product is a kernel on its handle's stream. One of the
    runtime ends the process and names itself.
    """
    lines = ["#include <cstdio>", "#include <cstdlib>", 'extern "C" int dry_cuda_launched(void *);']
    for name in names:
        arguments, body = "...", "return 0;"
        if PRODUCT.fullmatch(name):
            arguments, body = "void **handle, ...", "return dry_cuda_launched(*handle);"
        elif RUNTIME.fullmatch(name):
            message = f"dry run: torch calls {name}, which runtime.cpp does not define\\n"
            body = f'fputs("{message}", stderr); abort();'
        lines.append(f'extern "C" int {name}({arguments}) {{ {body} }}')
    return "\n".join(lines) + "\n"
