# What CI runs is `make test`; what a newcomer runs is `make run`.

PREFIX ?= /usr/local
CARGO ?= cargo
# One set of features for all builds of the tests, so that nothing is built twice.
TEST_FLAGS = --locked --features crash-points
# Half of their time the processor waits for the disk and for intervals: four at once.
UNIT_TESTS = 'RUST_TEST_THREADS=4 $(CARGO) test $(TEST_FLAGS) --no-fail-fast --lib --bins --test suite' \
	'$(CARGO) test $(TEST_FLAGS) --doc'
# Four at once keep two cores busy; with more, servers are late for the deadlines of the tests.
CLUSTER_TESTS = 'RUST_TEST_THREADS=4 $(CARGO) test $(TEST_FLAGS) --no-fail-fast --test cluster'

.PHONY: run test test-unit test-cluster setup soak fuzz bench lint docs install \
	driver-kit test-driver soak-driver bench-driver

# A watcher with a small job on local disk: remove its marker in another terminal, see the receipt.
run:
	examples/demo/run.sh

# Everything: format, lints, documentation, all tests, real servers included. What is fetched waits for the network,
# what is compiled for the processor: both at once.
test:
	+$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint setup
	$(CARGO) test $(TEST_FLAGS) --no-run
	scripts/count-tests $(UNIT_TESTS) $(CLUSTER_TESTS)
	driver/build.sh
	python3 driver/tests/run.py --sample --jobs 2

# Without servers.
test-unit:
	scripts/count-tests $(UNIT_TESTS)

# Against servers that the tests start themselves, on free loopback ports.
test-cluster: setup
	scripts/count-tests $(CLUSTER_TESTS)

# What the servers of the tests need, into .cache/.
setup:
	tests/setup.sh

# Long counts, by hand; can be interrupted and goes on where it was.
soak:
	$(CARGO) test $(TEST_FLAGS) --profile soak --test suite --test cluster -- --ignored --nocapture soak

# Every parser of bytes that others write, for a minute each (STEPDOWN_FUZZ_SECONDS), as rows of docs/soak.md; needs a
# nightly compiler.
fuzz:
	STEPDOWN_UPDATE_DOCS=1 scripts/fuzz

# On a quiet machine; writes the tables of docs/benchmarks.md. rclone and b3sum are measured where they are.
bench: setup
	STEPDOWN_UPDATE_DOCS=1 $(CARGO) bench --locked --bench speed

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy $(TEST_FLAGS) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

# The generated pages: configuration, command line, exit codes, man pages, help texts.
docs:
	STEPDOWN_UPDATE_DOCS=1 INSTA_UPDATE=always $(CARGO) test $(TEST_FLAGS) --test suite -- docs_current help_of_every_command
	STEPDOWN_UPDATE_DOCS=1 $(CARGO) test $(TEST_FLAGS) --lib -- rollout::decide

install:
	$(CARGO) build --locked --release
	install -D -m 755 target/release/stepdown $(DESTDIR)$(PREFIX)/bin/stepdown
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 docs/man/*.1

# The part that runs inside Spark: target/driver/stepdown-driver-VERSION.jar.
driver-kit:
	driver/build.sh

# The driver kit in real Spark, from 3.3 to the newest, on HDFS and YARN; an hour.
test-driver: driver-kit setup
	$(CARGO) build $(TEST_FLAGS)
	python3 driver/tests/run.py

# Hundreds of drains, and of other stops beside them, as a table in docs/soak.md; goes on where it was.
soak-driver: driver-kit
	python3 driver/tests/soak.py

# Batch times with and without the driver kit, as a table in docs/driver.md; on a quiet machine.
bench-driver: driver-kit
	python3 driver/tests/overhead.py
