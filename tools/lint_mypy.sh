#!/usr/bin/env bash
# Type-check the package. mypy cannot follow the import hook of an editable install whose package is
# the repository root, so it is given the root through a symlink named passel in a temporary folder.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mypy=${MYPY:-$root/.venv/bin/mypy}
work=$(mktemp -d)
trap 'rm -f "$work/passel"; rmdir "$work"' EXIT
ln -s "$root" "$work/passel"
cd "$work"
"$mypy" --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache" -p passel "$@"
