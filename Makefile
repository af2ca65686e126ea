# Two commands on a fresh machine, as root: `make demo` and `make test`.
# The rest is for developers. Everything that these make is in .lab/, which `make clean` removes.

LAB := $(if $(UIMGACC_LAB),$(UIMGACC_LAB),.lab)
BIN := $(LAB)/venv/bin
SOURCES := agent lab tests benchmarks

.PHONY: demo test bench chaos long kernels image release release-test chart check quick lab tools clean

demo:
	lab/setup demo
	$(BIN)/python -m lab.demo

test: lab
	$(MAKE) --no-print-directory check
	$(BIN)/python -m lab.testing

# Everything is killed for five minutes while pods run: what is lost, wrong or left is a fault.
chaos: lab
	$(BIN)/python -m lab.chaos

# The races for layer files, twenty times as long, and the tar bombs that go on for long.
long: lab
	UIMGACC_LONG=1 $(BIN)/pytest -q tests/properties/test_layer_races.py tests/build/test_bombs.py

# On the kernels of Debian's releases, emulated: an hour, or UIMGACC_KERNELS=6.1 for one of them.
kernels: lab
	$(BIN)/python -m lab.kernels.packages
	UIMGACC_KERNELS=$(or $(UIMGACC_KERNELS),all) nice $(BIN)/pytest -q tests/kernels

bench: lab
	$(BIN)/python -m benchmarks

# The container image, as an OCI archive: .lab/image/uimgacc.oci.tar.
image: lab
	$(BIN)/python -m lab.image

# charts/uimgacc, made anew from manifests/: after a change of either. A test compares.
chart: lab
	$(BIN)/python -m lab.chart

# A release of this commit, for amd64 and arm64: .lab/release/VERSION. CONTRIBUTING.md, "Releasing".
release: lab
	$(BIN)/python -m lab.release build

# Two releases from two clones, compared, pushed, verified and run.
release-test: lab
	UIMGACC_RELEASE=1 nice $(BIN)/pytest -q tests/release

# Everything that needs no containerd: formatting, lint, types, layers, spelling, unit tests.
check: tools
	$(BIN)/ruff format --check --quiet $(wildcard $(SOURCES))
	$(BIN)/ruff check --quiet $(wildcard $(SOURCES))
	$(BIN)/mypy
	$(BIN)/mypy -p lab
	$(BIN)/lint-imports
	$(BIN)/codespell $(wildcard $(SOURCES) docs manifests dashboards *.md)

quick: tools
	$(BIN)/pytest -q tests/unit

lab:
	lab/setup

tools:
	lab/setup tools

clean:
	lab/clean
