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
