# Two commands to know: `make demo` and `make test`. Each installs what it lacks, builds under build/, and runs.
.PHONY: all build demo test asan clean format help
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

asan:
	@scripts/install-deps
	@test -f build/asan/build.ninja || meson setup build/asan -Db_sanitize=address,undefined -Db_lundef=false >build/setup.log || \
		{ cat build/setup.log; exit 1; }
	@out=$$(ninja -C build/asan --quiet 2>&1) || { echo "$$out"; exit 1; }

format:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	rm -rf build/release build/asan build/tsan build/demo

help:
	@echo "make demo    show the main job: log, intercept, checkpoint, kill, restore, replay (as root)"
	@echo "make test    build and run every test, also under sanitizers"
	@echo "make         build into $(BUILD)"
	@echo "make asan    build with AddressSanitizer and UBSan into build/asan"
	@echo "make clean   remove what was built; build/deps (downloads) stays"
