# natmap: `make demo`, then `make test`. Needs git, Python 3.11+ and make, nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Two processes of tests share two cores: one thread for each library. A file's tests stay in one
# process, for its fixtures and servers (loadgroup would allow other groups, but pytest-xdist 3.8
# groups nothing under pytest 9.2, and does not say so).
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 BLOSC_NTHREADS=1 \
              GDAL_NUM_THREADS=1
PYTEST     := $(BIN)/python -m pytest
BESIDE     := $(ONE_THREAD) $(PYTEST) -n 2 --dist loadfile

.PHONY: demo install test quick soak mutations neighbours scenes propagation labelling table2 labels sites check durations \
        services debian-services python-services kubernetes-services clean

install: $(STAMP)

# torch first and by its exact version: any other one, or one that a later package asks for,
# brings gigabytes of CUDA with it. Python compiles a module when it is first imported: compiling
# all modules of all packages took two fifths of the installation. So Python must be allowed to
# keep what it compiled, or each of the suite's many processes would compile it again.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --no-compile

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)            ## a made-up country, mapped, judged, updated; about 5 minutes
	$(BIN)/natmap demo natmap-demo

check: $(STAMP)           ## lint, format, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check               ## everything that CI runs
	$(BESIDE) -m "not alone and not soak"
	$(PYTEST) -n 0 -m "alone and not soak"

quick: $(STAMP)           ## the suite without what takes long
	$(BESIDE) -m "not slow and not alone and not soak"

durations: $(STAMP)       ## write tests/durations.md from what the last `make test` took
	cd tests && ../$(BIN)/python -m support.durations

soak: $(STAMP)            ## the full size of every law, hours; resumes; writes benchmarks/soak.log
	$(BIN)/python benchmarks/soak.py

mutations: $(STAMP)       ## mutated items, recipes, cards and areas; 15 minutes of a core; resumes
	$(BIN)/python benchmarks/mutations.py

neighbours: $(STAMP)      ## exact neighbours of a million cells; half an hour of a core; resumes
	$(BIN)/python benchmarks/neighbours.py

scenes: $(STAMP)          ## texture, scenes and search on made-up photos; 15 minutes of a core; resumes
	$(BIN)/python benchmarks/scenes.py --work work/scenes

table2: $(STAMP)          ## table 2 of UGS-1m from recipes, small; 18 minutes of a core a seed; resumes
	$(BIN)/python benchmarks/green/table2.py --work work/table2

labels: $(STAMP)          ## which classes occur in patches of synthetic cities; 4 minutes of a core; resumes
	$(BIN)/python benchmarks/labels.py --work work/labels

labelling: $(STAMP)       ## the labelling rule against the truth of made-up cities; 6 minutes of a core; resumes
	$(BIN)/python benchmarks/labelling.py --work work/labelling --seeds 301 302 303

propagation: $(STAMP)     ## heads, guards and pseudo-labels on made-up cities; an hour of a core; resumes
	$(BIN)/python benchmarks/propagation/worlds.py --work work/propagation
	$(BIN)/python benchmarks/propagation/compare.py --work work/propagation
	$(BIN)/python benchmarks/propagation/networks.py --work work/propagation
	$(BIN)/python benchmarks/propagation/report.py

# The real data of the tests.
DATA ?= ../shared/data
sites: $(STAMP)           ## sites of China beside the paper's, 20,000 draws, designs side by side; 2 minutes
	$(BIN)/python benchmarks/sites.py --data $(DATA) --work work/sites --log benchmarks/sites.json

# Debian's names. What is missing, its tests are skipped; nothing else needs it.
SERVICES := ceph-common ceph-mgr ceph-mon ceph-osd radosgw slurm-wlm munge nginx-light \
            postgresql postgresql-postgis iproute2 openssh-server openssh-client \
            chromium chromium-driver

# Three parts that do not wait for each other: `make -j3 services`.
services: debian-services python-services kubernetes-services  ## real servers for the tests (Debian, root)

debian-services:
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(SERVICES)

python-services:          # packages of their own, which must not meet natmap's pins
	$(PYTHON) -m venv .servers
	.servers/bin/python -m pip install --quiet --no-compile \
	    'stac-fastapi-pgstac[server]==7.2.0' 'pypgstac[psycopg]==0.10.0'

kubernetes-services: $(STAMP)  # the operator's definitions
	$(PIP) --no-deps dask-kubernetes==2026.3.0

clean:
	rm -rf $(VENV) .servers .test-cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
