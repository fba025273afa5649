# Sourced by the scripts: which Python runs. PYTHON if set; the active environment's; else the
# .venv that `make install` leaves in the checkout; else whatever `python` is.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$root/.venv/bin/python" ]; then
        PYTHON="$root/.venv/bin/python"
    fi
fi
if ! command -v "$PYTHON" >/dev/null; then
    echo "error: no Python found ($PYTHON): run 'make install', activate an environment, or set PYTHON" >&2
    exit 1
fi

# Before a job is queued for hours: variables that must be positive numbers, and the config.
positive() {
    for name in "$@"; do
        if ! [[ "${!name}" =~ ^0*[1-9][0-9]{0,5}$ ]]; then
            echo "error: $name must be a positive number, not '${!name}'" >&2
            exit 2
        fi
    done
}
config_exists() {
    # or ours of the same file name, with or without suffix, as the tools take it
    local name=${1##*/}
    if ! [ -f "$1" ] && ! [ -f "$root/$1" ] &&
        ! compgen -G "$root/configs/*/${name%.py}.py" >/dev/null; then
        echo "error: config not found: $1" >&2
        exit 1
    fi
}
