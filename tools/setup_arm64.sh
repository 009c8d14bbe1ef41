#!/usr/bin/env bash
# Sets up CPython 3.11 for aarch64 with what a fogconv worker and its tests need, under qemu-user.
#
#   tools/setup_arm64.sh [DIR]        then:  DIR/bin/python-arm64 -m pytest …
#
# For functional tests of the NEON kernels and of unlike nodes; it shows nothing about speed. `python -m bench.neon` does, with
# llvm-mca, which is unpacked into DIR/bin as well where the host's apt has llvm-19. Nothing is installed on the host and no
# root is needed: qemu and the aarch64 Python are unpacked from Debian's packages through an apt state of its own
# (the host's apt sources, so Debian 12 or a system whose sources carry python3.11), the wheels are pip's. About 60 s, 600 MB.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$(realpath -m "${1:-$project/.arm64}")
python=${PYTHON:-python3}
packages=${PKGS:-numpy numba pyzmq msgspec typer rich psutil platformdirs lz4 zstandard pytest pytest-timeout hypothesis}

for tool in apt-get dpkg-deb "$python"; do
    command -v "$tool" >/dev/null || { echo "setup_arm64: $tool is missing; this needs Debian's apt and Python 3" >&2; exit 2; }
done
rm -rf "$home"
mkdir -p "$home"/{bin,system,site,download,apt/lists/partial,apt/cache/archives/partial}
trap 'rm -rf "$home"' ERR
cd "$home"

# 1. Debian's packages, both architectures, through a private apt state: no dpkg --add-architecture, no lists of the host's.
: > apt/status
host=$(dpkg --print-architecture)
cat > apt/apt.conf <<CONF
APT::Architecture "$host"; APT::Architectures { "$host"; "arm64"; };
APT::Sandbox::User "$(id -un)"; Acquire::Languages "none";
Dir::State "$home/apt"; Dir::State::status "$home/apt/status"; Dir::Cache "$home/apt/cache";
CONF
(
    export APT_CONFIG=$home/apt/apt.conf
    apt-get -qq update
    cd download
    apt-get -qq download "qemu-user-static:$host"
    dpkg-deb --fsys-tarfile qemu-user-static_*.deb | tar xO ./usr/bin/qemu-aarch64-static > ../bin/qemu-aarch64-static
    rm qemu-user-static_*.deb
    apt-get -qq download {libc6,libgcc-s1,libstdc++6,libgomp1,zlib1g,libexpat1,libssl3,liblzma5,libbz2-1.0,libffi8,libuuid1,libsqlite3-0}:arm64 \
        {python3.11-minimal,libpython3.11-minimal,libpython3.11-stdlib}:arm64
    for package in *.deb; do dpkg-deb -x "$package" ../system; done
    mkdir llvm && cd llvm
    # A slim system may lack what libLLVM needs.
    if apt-get -qq download {llvm-19,libllvm19,libbsd0,libedit2,libicu72,libmd0,libxml2,libz3-4}:"$host"; then
        mkdir -p ../../llvm
        dpkg-deb --fsys-tarfile llvm-19_*.deb | tar x -C ../../llvm ./usr/lib/llvm-19/bin/llvm-mca
        for package in lib*.deb; do
            dpkg-deb --fsys-tarfile "$package" | tar x -C ../../llvm --wildcards './usr/lib/*-linux-gnu/*.so*'
        done
    else
        echo "setup_arm64: apt has no llvm-19: python -m bench.neon needs another llvm-mca" >&2
    fi
)
chmod +x bin/qemu-aarch64-static

# 2. aarch64 wheels, at the versions that constraints.txt pins.
platforms=()
for glibc in 28 27 26 24 17; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
# shellcheck disable=SC2086  # a list of names
"$python" -m pip install -q --target site --only-binary=:all: --implementation cp --python-version 3.11 \
    "${platforms[@]}" --platform manylinux2014_aarch64 -c "$project/constraints.txt" $packages

# 3. A Raspberry Pi 4 to look at: qemu takes /proc/cpuinfo from the root it is given.
mkdir -p system/proc
for core in 0 1 2 3; do
    printf 'processor\t: %d\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n' "$core"
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n'
done > system/proc/cpuinfo

# 4. The wrapper. qemu's default CPU raises false floating-point warnings, so QEMU_CPU is always set, cortex-a72 or cortex-a76
#    (Raspberry Pi 4 and 5), and numba compiles for the same; sitecustomize makes subprocesses and multiprocessing re-enter
#    qemu where binfmt is not registered.
cat > bin/python-arm64 <<WRAPPER
#!/bin/sh
export QEMU_CPU="\${QEMU_CPU:-cortex-a72}"
export NUMBA_CPU_NAME="\${NUMBA_CPU_NAME:-\$QEMU_CPU}" PYTHONPATH="$home/site\${PYTHONPATH:+:\$PYTHONPATH}" PYTHONNOUSERSITE=1
exec "$home/bin/qemu-aarch64-static" -L "$home/system" "$home/system/usr/bin/python3.11" "\$@"
WRAPPER
chmod +x bin/python-arm64
echo "import sys; sys.executable = '$home/bin/python-arm64'" > site/sitecustomize.py
if [ -d llvm ]; then
    cat > bin/llvm-mca <<WRAPPER
#!/bin/sh
export LD_LIBRARY_PATH="\$(echo "$home"/llvm/usr/lib/*-linux-gnu)"
exec "$home/llvm/usr/lib/llvm-19/bin/llvm-mca" "\$@"
WRAPPER
    chmod +x bin/llvm-mca
fi
rm -rf download apt
bin/python-arm64 -c 'import platform, numpy, numba, zmq; print(platform.machine(), "numpy", numpy.__version__, "numba", numba.__version__, "zmq", zmq.__version__)'
touch ready
