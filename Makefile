# make demo | make test | make test-slow | make test-all | make test-export | make soak | make gpu |
# make gpu-wheels | make install | make mmcv-full | make lint
# PYTHON chooses the interpreter (>= 3.10), VENV where the environment goes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
STAMP := $(VENV)/.installed
LOG := $(VENV)/install.log
# every failure ends in one line of its own
SAY = { echo "error: $(1)" >&2; exit 1; }
BROKEN = $(call SAY,installing failed: $$(grep -iE 'error|no space|no matching' $(LOG) | tail -n 1) (check network and disk; all of it in $(LOG)))

.PHONY: install demo test test-slow test-all test-export soak gpu gpu-wheels lint mmcv-full

install: $(STAMP)

ifdef WHEELS
# Without a network: the packages of PYTHON, among them PyTorch, and before them those of a folder of
# wheels. PYTHON may itself be of an environment, so that --system-site-packages would not do.
$(STAMP): $(WHEELS)
	@mkdir -p $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) > $(LOG) 2>&1 || $(BROKEN)
	@$(PYTHON) -c 'import site; print(*site.getsitepackages(), sep="\n")' \
		> "$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/of_this_machine.pth"
	@$(PYTHON) -m pip --python $(BIN)/python install --no-index --no-deps $(WHEELS)/*.whl >> $(LOG) 2>&1 \
		|| $(BROKEN)
	@$(PYTHON) -m pip --python $(BIN)/python install --no-index --no-deps --no-build-isolation -e . \
		>> $(LOG) 2>&1 || $(BROKEN)
	@$(BIN)/models_mm env
	@touch $@
else
# the package, what it needs for MMDetection (models_mm setup), and what the tests need
$(STAMP): requirements.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
		|| $(call SAY,Python 3.10 or newer is needed and "$(PYTHON)" is not: make PYTHON=/path/to/python3.11 ...)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| $(call SAY,cannot make a virtual environment in $(VENV): on Debian and Ubuntu: apt install python3-venv)
	@echo "installing into $(VENV): a few minutes the first time"
	@$(PIP) install --upgrade 'pip>=25.3' > $(LOG) 2>&1 || $(BROKEN)
	@$(PIP) install -c requirements.txt -e . >> $(LOG) 2>&1 || $(BROKEN)
	@$(BIN)/models_mm setup -c requirements.txt --log $(LOG)
	@$(PIP) install --no-build-isolation -r requirements.txt >> $(LOG) 2>&1 || $(BROKEN)
	@touch $@
endif

# mmcv's compiled operators in place of the pure-Python mmcv: ten minutes, needs a C++ compiler.
mmcv-full: $(STAMP)
	@$(BIN)/models_mm setup -c requirements.txt --mmcv-full --log $(LOG)

demo: $(STAMP)
	@PYTHON=$(abspath $(BIN))/python bash tools/demo.sh

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $${PYTEST_WORKERS:-auto} --dist worksteal

test: $(STAMP)
	@$(PYTEST) -m "not slow"

test-slow: $(STAMP)
	@$(PYTEST) -m slow

test-all: $(STAMP)
	@$(PYTEST)

# Every published detector, exported and compared: hours. EXPORTS= gives patterns of names
test-export: $(STAMP)
	@$(BIN)/python -m tests.exports $(EXPORTS)

# Hostile inputs and kills by the hundred; SOAK= gives options: make soak SOAK="--kills 20 --seed 7"
soak: $(STAMP)
	@$(BIN)/python -m tests.soak $(SOAK)

# What only a GPU shows, and without one all that needs none: make gpu TIER=operators
gpu: $(STAMP)
	@mkdir -p work_dirs
	@$(BIN)/models_mm gpu-check --out $(or $(OUT),work_dirs/gpu_check.md) $(if $(TIER),--tier $(TIER))

# What `make gpu` needs on a machine that has PyTorch and no network: there, make gpu WHEELS=wheels.
# GPU_HAS is what it has; what only development needs is left out.
GPU_PYTHON ?= 3.12
GPU_HAS ?= torch torchvision numpy pillow scipy matplotlib opencv-python-headless tensorboard
GPU_LEAVES := $(GPU_HAS) mmcv ninja wandb ruff import-linter onnx onnxscript onnxruntime openvino \
	tritonclient grpcio fastapi uvicorn
GPU_ADDS := platformdirs sortedcontainers pluggy iniconfig execnet
PLATFORMS := $(foreach n,2_28 2_27 2_24 2_17 2_12 2_5,--platform manylinux_$(n)_x86_64)
gpu-wheels: $(STAMP)
	@rm -rf wheels && mkdir wheels
	@$(PIP) wheel --no-cache-dir --no-deps --no-build-isolation -c requirements.txt -w wheels mmcv \
		> $(LOG) 2>&1 || $(BROKEN)
	@sed -n 's/==.*//p' requirements.txt | grep -vxF "$$(printf '%s\n' $(GPU_LEAVES))" | xargs $(PIP) \
		download --no-deps --only-binary=:all: --implementation cp --python-version $(GPU_PYTHON) \
		$(PLATFORMS) -c requirements.txt -d wheels $(GPU_ADDS) >> $(LOG) 2>&1 || $(BROKEN)
	@du -sh wheels

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
