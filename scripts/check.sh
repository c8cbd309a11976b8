#!/usr/bin/env bash
# Every check that needs no run: style, types, layers, C format, Prometheus rules, the unit's sandbox. All of them run; one failure fails.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
failed=0
check() {
    local name=$1
    shift
    if output=$("$@" 2>&1); then
        echo "ok    $name"
    else
        echo "FAIL  $name"
        echo "$output"
        failed=1
    fi
}
unit_exposure() {
    systemd-analyze security --offline=yes --threshold=15 --no-pager systemd/gatewayd.service
}
check "ruff" ruff check --no-fix .
check "ruff format" ruff format --check .
check "mypy --strict" mypy
check "import-linter" lint-imports
check "clang-format" sh -c 'git ls-files "node_firmware/*.c" "node_firmware/*.h" | xargs clang-format --dry-run --Werror'
check "promtool" sh -c 'for f in deploy/prometheus/*.yml; do promtool check config --syntax-only "$f" || exit 1; done; promtool check rules deploy/prometheus/rules/*.yml'
check "mkdocs" env NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict
check "systemd-analyze" unit_exposure
check "shellcheck" sh -c 'shellcheck deploy/install.sh deploy/deb/gatewayd.p*'
exit $failed
