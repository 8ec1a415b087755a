# Two commands to know: `make demo` and `make test`. Each installs what it lacks, builds under build/, and runs.
.PHONY: all build demo test bench bench-replicas bench-retention bench-catchup bench-follow bench-thesis soak bench-proxy sim sim-mutants chaos cluster-test images chaos-store powerloss coverage precopy fuzz asan clean format help
BUILD := build/release

all: build

build:
	@scripts/install-deps
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) >build/setup.log || { cat build/setup.log; exit 1; }
	@out=$$(ninja -C $(BUILD) --quiet 2>&1) || { echo "$$out"; exit 1; }

demo: build
	@tests/demo/demo --build $(BUILD) $(DEMO_ARGS)

test: build
	@scripts/run-tests $(TEST_ARGS)

bench: build
	@scripts/install-deps bench
	@tests/bench/append $(BENCH_ARGS)

# SEEDS=1000, or SEED=7 to see that one again; ARGS="--skip 0x3f --verbose"
# (-O3 with the profile of some seeds, but no LTO: that binds calls within logd before the linker can lead them through the simulator's watches)
sim:
	@scripts/install-deps
	@test -f build/sim/profiled || scripts/profile-sim
	@out=$$(ninja -C build/sim --quiet sim 2>&1) || { echo "$$out"; exit 1; }
	@build/sim/tests/sim/crsc-sim $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),500)) $(ARGS)

# Which seeded faults of logd the simulator finds, and after how many seeds; MUTANT=skip_sync,leak for some
sim-mutants:
	@scripts/install-deps
	@test -f build/mutants/build.ninja || meson setup build/mutants -Dmutants=true >build/setup.log || { cat build/setup.log; exit 1; }
	@out=$$(ninja -C build/mutants --quiet sim 2>&1) || { echo "$$out"; exit 1; }
	@build/mutants/tests/sim/crsc-sim --mutants $(if $(MUTANT),--mutant $(MUTANT)) $(ARGS)

# TESTS="kill_app lost_node" for some; agents and runtime by hand first, then all of it installed
cluster-test: build
	@scripts/install-deps cluster
	@tests/cluster/build
	@tests/cluster/test_cluster.py --build $(BUILD) $(TESTS)
	@tests/cluster/test_kubelet.py --build $(BUILD) $(TESTS)
	@tests/cluster/test_operator.py --build $(BUILD) $(TESTS)

images: build
	@deploy/images/all --build $(BUILD) --out build/images
MEMORY_ARGS ?= --full
# What takes long: memory at full size (40 GB of disk), then an hour of appends and trims. MINUTES=10, MEMORY_ARGS= for less
soak: build
	@tests/bench/memory $(MEMORY_ARGS)
	@tests/bench/memory --soak $(or $(MINUTES),60)

# Pre-copy needs a kernel that tracks written pages: with real runc and CRIU in a machine in QEMU whose kernel does (some minutes). MB=500 for a larger state
precopy: build
	@scripts/install-deps precopy
	@tests/precopy/vm --build $(BUILD) inside writer /tmp/inside $(or $(MB),200) /opt/criu/bin/criu 2

# SECONDS=3600 for an hour, ARGS="--seed 7" for the same choices again
chaos: build
	@CRSC_CHAOS_SECONDS=$(or $(SECONDS),180) tests/chaos/test_chaos.py --build $(BUILD) $(ARGS)

# Three replicas of an app likewise; SECONDS=600, ARGS="--seed 7"
chaos-store: build
	@CRSC_CHAOS_SECONDS=$(or $(SECONDS),180) tests/chaos/test_store.py --build $(BUILD) $(ARGS)

# CUTS=1000
powerloss: build
	@CRSC_POWER_CUTS=$(or $(CUTS),60) tests/powerloss/test_powerloss.py --build $(BUILD) $(ARGS)

# A new server catches up, beside the disk's speed: ARGS=--full for 10 GB (50 GB of disk), ARGS="--size 3"
bench-catchup: build
	@tests/bench/catchup --build $(BUILD) $(ARGS)

# ARGS=--quick
bench-retention: build
	@tests/bench/retention --build $(BUILD) $(ARGS)

bench-proxy: build
	@scripts/install-deps bench
	@tests/bench/proxy --build $(BUILD) $(ARGS)

bench-follow: build
	@tests/bench/follow --build $(BUILD) $(ARGS)

# ARGS="--failovers 100 --mb 10 100 500"
bench-replicas: build
	@scripts/install-deps bench
	@tests/bench/replicas --build $(BUILD) $(ARGS)

bench-thesis: build
	@scripts/install-deps bench
	@tests/bench/thesis --build $(BUILD) $(ARGS)

coverage:
	@scripts/install-deps coverage
	@scripts/coverage $(ARGS)

# SECONDS=600 for each target; FUZZ="fuzz-http_request ..." for some
fuzz: build
	@CRSC_FUZZ_SECONDS=$(or $(SECONDS),20) scripts/run-tests --tree fuzz $(FUZZ)

asan:
	@scripts/install-deps
	@test -f build/asan/build.ninja || meson setup build/asan -Db_sanitize=address,undefined -Db_lundef=false >build/setup.log || \
		{ cat build/setup.log; exit 1; }
	@out=$$(ninja -C build/asan --quiet 2>&1) || { echo "$$out"; exit 1; }

format:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	rm -rf build/release build/asan build/tsan build/mutants build/sim build/valgrind build/demo

help:
	@echo "make demo    show the main job: log, intercept, checkpoint, kill, restore, replay (as root)"
	@echo "make test    build and run every test, also under sanitizers and on Kubernetes"
	@echo "make         build into $(BUILD)"
	@echo "make bench   durable appends beside etcd, JetStream and PostgreSQL (about 15 minutes; builds those from Go modules)"
	@echo "make bench-catchup  a new server fetches the state while appends go on, beside the disk's sequential speed; ARGS=--full for 10 GB"
	@echo "make bench-follow  events/s that one reader gets from the page cache (about a minute)"
	@echo "make bench-retention  disk use beside live bytes, many streams trimmed at different rates (2 minutes); ARGS=--quick"
	@echo "make bench-proxy   the interceptor beside nginx, haproxy and no proxy (about 2 minutes)"
	@echo "make bench-replicas  three replicas beside one: writes, reads, failover, migration by size of the state (about 15 minutes)"
	@echo "make bench-thesis  the measurements of the thesis that CRSC grew out of, beside its figures; ARGS=--full"
	@echo "make sim     logd and clients in simulated worlds, a seed each: SEEDS=1000, SEED=7 for one again"
	@echo "make sim-mutants  the seeded faults that the simulator finds"
	@echo "make soak    memory and start-up with 10,000,000 events, then MINUTES=60 of steady appends and trims"
	@echo "make chaos-store  three replicas of an app and their log: killed, frozen, cut off, migrated; a linearizable history; SECONDS=600"
	@echo "make chaos   real servers in network namespaces: killed, frozen, cut off, disks full; SECONDS=3600 for an hour"
	@echo "make cluster-test  two real Kubernetes nodes, built from Go modules once (20 minutes): pods, nodes, agents killed; TESTS=lost_node for one"
	@echo "make images     container images of everything, as OCI archives in build/images"
	@echo "make powerloss  a disk that forgets what was not synced, cut again and again; CUTS=1000"
	@echo "make precopy  checkpoints with pre-copy, in a machine of QEMU's whose kernel tracks written pages; MB=500"
	@echo "make coverage   lines that the unit tests run, by module; ARGS=--lines for those of the cores that they do not"
	@echo "make fuzz    libFuzzer on every decoder; SECONDS=600 each, FUZZ=fuzz-frame for one"
	@echo "make asan    build with AddressSanitizer and UBSan into build/asan"
	@echo "make clean   remove what was built; build/deps (downloads) stays"
