#!/usr/bin/env bash
# Build mmcv-full 1.7.2 against the installed PyTorch and install it in mmcv's place.
# CUDA operators are built when nvcc and a GPU are there; FORCE_CUDA=1 builds them without a GPU.
set -euo pipefail
version=1.7.2
python=${PYTHON:-python}
fail() { echo "error: $1" >&2; exit 1; }
command -v "${CXX:-c++}" >/dev/null || fail "a C++ compiler is needed: apt install g++ (or set CXX)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pins=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../../requirements.txt

constraint=()
[ -f "$pins" ] && constraint=(-c "$pins")
"$python" -m pip install -q "${constraint[@]}" 'setuptools<81' wheel ninja psutil
"$python" -m pip download -q --no-deps --no-build-isolation --no-binary mmcv-full -d "$work" "mmcv-full==$version" \
    || fail "cannot download mmcv-full $version: check the network"
tar -xzf "$work/mmcv-full-$version.tar.gz" -C "$work"

# torch's headers need C++20 from 2.14 on; mmcv's setup.py asks for 14 or 17
standard=$("$python" -c 'import torch; v = torch.__version__.split("."); print(20 if (int(v[0]), int(v[1])) >= (2, 14) else 17)')
sed -i -E "s/-std=c\+\+1[47]/-std=c++$standard/g" "$work/mmcv-full-$version/setup.py"

echo "building mmcv-full $version (C++$standard); about ten minutes on two cores"
MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} "$python" -m pip wheel -q --no-deps --no-build-isolation \
    -w "$work/wheel" "$work/mmcv-full-$version" || fail "the build failed: see the compiler's messages above"
"$python" -m pip uninstall -q -y mmcv mmcv-full
"$python" -m pip install -q --no-deps "$work"/wheel/*.whl
"$python" -c 'import torch, mmcv._ext; print("mmcv-full is installed: compiled operators load")'
