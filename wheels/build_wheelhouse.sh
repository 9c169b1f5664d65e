#!/usr/bin/env bash
# Downloads the wheels of lock files for several Pythons on Kaggle's Linux, checked against the locked hashes, into one
# flat folder: Kaggle's datasets skip sub-folders, and the install cell picks the wheel of the Python that runs.
#
#   build_wheelhouse.sh PYTHON FOLDER "3.12 3.13" openvino [onnxruntime]
#
# PYTHON has pip, and can be of any version. Only files that the locks list are kept of the packages that they name, so
# running it again with the same locks gives the same files, and a new lock replaces the old wheels.
set -euo pipefail
umask 022
[[ $# -ge 4 ]] || { echo "usage: $0 PYTHON FOLDER \"VERSIONS\" LOCK..." >&2; exit 2; }
python=$1 folder=$2 versions=$3
shift 3
locks=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for name in "$@"; do
    [[ -f "$locks/$name.lock" ]] || { echo "$0: there is no $locks/$name.lock" >&2; exit 2; }
done

mkdir -p "$folder"
part=$(mktemp -d "$folder/.part.XXXXXX")
trap 'rm -rf "$part"' EXIT
for version in $versions; do
    tag=cp${version//./}
    for name in "$@"; do
        # Ubuntu 22.04, on which Kaggle's image stands, has glibc 2.35.
        "$python" -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps \
            --only-binary=:all: --find-links "$folder" --dest "$part" --requirement "$locks/$name.lock" \
            --python-version "$version" --implementation cp --abi "$tag" --abi abi3 --abi none \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64
    done
done
for wheel in "$part"/*.whl; do  # older ones of the same packages
    name=$(basename "$wheel")
    rm -f "$folder/${name%%-*}"-*.whl
done
mv "$part"/*.whl "$folder"
wc -c "$folder"/*.whl | awk '{ printf "%8.2f MB  %s\n", $1 / 1e6, $2 }'
