# make demo          the whole way on a generated competition, to a scored submission.csv and a page of pictures
# make test          ruff, mypy, pytest with the newest versions; PYTEST_ARGS="-k layers" narrows pytest down
# make test-kaggle   pytest with the versions of Kaggle's image, and in a place like Kaggle with wheels that it lacks
# make wheel         the wheel that Kaggle installs, into wheels/
# make wheelhouse    what Kaggle's image lacks, into wheels/; WHEELS="openvino onnxruntime" for both backends
# make lint, clean
PYTHON ?= python3
PYTEST_ARGS ?=
# Files on several cores, each test on one thread: threads that wait for each other are slower than none. A process that
# dies ends the run: a new one in its place can leave pytest-xdist waiting for ever.
PYTEST = OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0 $(1)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --max-worker-restart 0 $(PYTEST_ARGS)
RECIPE ?= demo
WHEELS ?= openvino
KAGGLE_PYTHONS ?= 3.12 3.13
DEMO ?= demo
WORK := $(DEMO)/work

BIN := .venv/bin
KAGGLE_BIN := .venv-kaggle/bin
TRUTH := $(DEMO)/competition_truth/test_truth.csv

.PHONY: demo test test-kaggle lint wheel wheelhouse clean
.DELETE_ON_ERROR:

# Nothing is installed outside these two folders; the stamps make it happen once per change of the metadata.
.venv/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[dev]"
	touch $@

.venv-kaggle/.installed: setup.cfg pyproject.toml wheels/constraints-kaggle.txt
	$(PYTHON) -m venv .venv-kaggle
	$(KAGGLE_BIN)/python -m pip install --quiet --upgrade uv
	$(KAGGLE_BIN)/uv pip install --quiet --python $(KAGGLE_BIN)/python --constraint wheels/constraints-kaggle.txt \
		--editable ".[dev]"
	touch $@

demo: .venv/.installed
	$(BIN)/birdkit generate $(DEMO)/competition
	$(BIN)/birdkit pipeline $(DEMO)/competition $(WORK) --recipe $(RECIPE) --rounds 1 --every-round
	$(BIN)/birdkit report $(DEMO)/competition $(WORK) --truth $(TRUTH)
	@echo "chance:"
	@$(BIN)/birdkit score $(DEMO)/competition/sample_submission.csv $(TRUTH) --year 2025
	@echo "without pseudo-labels (round 0):"
	@$(BIN)/birdkit score $(WORK)/submission_round0.csv $(TRUTH) --year 2025
	@echo "with pseudo-labels (round 1), $(WORK)/submission.csv:"
	@$(BIN)/birdkit score $(WORK)/submission.csv $(TRUTH) --year 2025

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(call PYTEST,$(BIN))

# For the Python of the tests, too, whichever it is: they install and run it.
.venv-kaggle/wheelhouse/%/.built: wheels/%.lock wheels/build_wheelhouse.sh | .venv-kaggle/.installed
	wheels/build_wheelhouse.sh $(KAGGLE_BIN)/python $(@D) "$(KAGGLE_PYTHONS) $$($(KAGGLE_BIN)/python -c \
		'import sys; print("%d.%d" % sys.version_info[:2])')" $*
	touch $@

test-kaggle: .venv-kaggle/.installed .venv-kaggle/wheelhouse/openvino/.built .venv-kaggle/wheelhouse/onnxruntime/.built
	$(call PYTEST,$(KAGGLE_BIN)) -m "not benchmark"

# A left-over build folder would put deleted modules into the wheel; with the commit's date two builds are equal.
wheel: .venv/.installed
	rm -rf build *.egg-info wheels/birdkit-*.whl
	umask 022 && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/uv build --quiet --wheel --out-dir wheels .
	@ls wheels/birdkit-*.whl

wheelhouse: .venv/.installed
	wheels/build_wheelhouse.sh $(BIN)/python wheels "$(KAGGLE_PYTHONS)" $(WHEELS)

clean:
	rm -rf build dist *.egg-info $(DEMO) .pytest_cache .mypy_cache .ruff_cache
	find birdkit tests -name __pycache__ -type d -exec rm -rf {} +
