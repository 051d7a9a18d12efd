#!/bin/sh
# Builds the library for C and C++, shared and static, and lays it out for their tools:
#
#   sh include/install.sh PREFIX [CARGO OPTIONS]
#
#   PREFIX/include/priorfit.h, priorfit.hpp
#   PREFIX/lib/libpriorfit.so (or .dylib), libpriorfit.a
#   PREFIX/lib/pkgconfig/priorfit.pc
#
# The options go to cargo: `--no-default-features` builds without the GPU backend.
set -eu
if [ $# -eq 0 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
abi=$(sed -n 's/^#define PRIORFIT_ABI_VERSION //p' include/priorfit.h)
case $(uname -s) in
    Darwin)
        shared=libpriorfit.$abi.dylib link=libpriorfit.dylib built=libpriorfit.dylib
        name="-Wl,-install_name,$prefix/lib/$shared"
        ;;
    *)
        shared=libpriorfit.so.$abi link=libpriorfit.so built=libpriorfit.so
        name="-Wl,-soname,$shared"
        ;;
esac

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cargo rustc --release --lib --features capi --crate-type cdylib,staticlib "$@" -- \
    -C strip=symbols -C link-arg="$name" --print native-static-libs 2>"$log"
then
    cat "$log" >&2
    exit 1
fi
libraries=$(sed -n 's/^note: native-static-libs: //p' "$log" | head -n 1)
target=$(cargo metadata --format-version 1 --no-deps \
    | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

mkdir -p "$prefix/include" "$prefix/lib/pkgconfig"
cp include/priorfit.h include/priorfit.hpp "$prefix/include/"
cp "$target/release/$built" "$prefix/lib/$shared"
ln -sf "$shared" "$prefix/lib/$link"
cp "$target/release/libpriorfit.a" "$prefix/lib/"
strip -S "$prefix/lib/libpriorfit.a"
sed -e "s|@PREFIX@|$prefix|" -e "s|@VERSION@|$version|" -e "s|@LIBS@|$libraries|" \
    include/priorfit.pc.in >"$prefix/lib/pkgconfig/priorfit.pc"
