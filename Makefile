# make demo     build everything and run a container under a private containerd
# make test     all tests; those that make containers need root
# make test-vm  those of containers again, in a machine with cgroup v2 and systemd
# make test-engines  nerdctl and Docker Engine over myshim, and over runc's shim
# make lint     vet, formatting, golangci-lint
# make bench    myshim against containerd-shim-runc-v2, in one table
# make install  PREFIX=/usr/local

PREFIX ?= /usr/local
VERSION ?= 0.1.0
REVISION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)

# no_grpc leaves grpc, net/http and templates out of containerd's API modules.
TAGS := -tags no_grpc
LDFLAGS := -ldflags "-s -w -X main.version=$(VERSION) -X main.revision=$(REVISION)"
BUILD := CGO_ENABLED=0 go build $(TAGS) -trimpath $(LDFLAGS)
SHIM := bin/containerd-shim-myshim-v1
LINT_VERSION := v2.15.0
LINT := bin/golangci-lint-$(LINT_VERSION)

.PHONY: all build cross tools demo test unit-test race-test race-all arm64-test integration-test test-vm test-engines golden fuzz bench lint install clean

all: build

build:
	$(BUILD) -o $(SHIM) ./cmd/containerd-shim-myshim-v1

# Both architectures build, and one build is like the next.
cross:
	GOARCH=arm64 $(BUILD) -o $(SHIM)-arm64 ./cmd/containerd-shim-myshim-v1
	$(BUILD) -o $(SHIM)-again ./cmd/containerd-shim-myshim-v1
	cmp $(SHIM) $(SHIM)-again && rm $(SHIM)-again $(SHIM)-arm64

# containerd, ctr, and the yardsticks, from their Go modules.
tools: bin/debian
	cd integration && go run ./tools/build

# An old containerd, which starts shims in the old way. It is not installed.
bin/debian:
	mkdir -p bin
	cd bin && if apt-get -q -o APT::Sandbox::User=root download containerd; \
		then dpkg-deb -x containerd_*.deb debian && rm containerd_*.deb; \
		else echo "*** NO OLD containerd: this needs Debian's packages ***"; fi

demo: build tools
	cd integration && go run ./demo

test: build cross unit-test race-test arm64-test integration-test

# Packages of which tests make containers skip them, and say so, without root.
unit-test:
	CGO_ENABLED=0 go test $(TAGS) -count=1 ./...

race-test:
	go test $(TAGS) -count=1 -race ./shim/... ./task/... ./process/stdio ./process/kernel ./process/launch

# That of process is the program of its containers, too, and so has to be static;
# a filter of TestConfine does not let it have threads as libc makes them.
STATIC := -linkmode=external -extldflags=-static
race-all: race-test
	go test $(TAGS),netgo,osusergo -count=1 -race -ldflags "$(STATIC)" -skip TestConfine ./mounts ./process/...

arm64-test:
	process/launch/testdata/arm64.sh

integration-test: build tools
	cd integration && go test -count=1 -timeout 40m .

# In QEMU, without hardware support: see integration/vm/run.
VM_MINUTES ?= 60
test-vm: build tools
	mkdir -p bin/vm
	CGO_ENABLED=0 go test $(TAGS) -c -o bin/vm/ ./process ./process/cgroup
	cd integration && CGO_ENABLED=0 go test -c -o ../bin/vm/ .
	if command -v qemu-system-x86_64 >/dev/null; \
		then VM_MINUTES=$(VM_MINUTES) VM_ENV="MYSHIM_RUNTIME VM_RUN VM_SKIP" integration/vm/run integration/vm/tests; \
		else echo "*** NOTHING TESTED with cgroup v2 and systemd: no QEMU ***"; fi

# It builds both from their Go modules, and takes ten minutes. The docker command is
# none, and so would be taken for one of an old Go.
test-engines: build tools
	mkdir -p bin/engines
	cd integration/engines && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" \
		-gcflags 'github.com/docker/cli/...=-lang=go1.26' -o ../../bin/engines/ tool
	cd integration/engines && go test -count=1 -timeout 40m .

# Read the diff of what this rewrites.
golden:
	go test $(TAGS) ./process/plan ./process/cgroup -update

FUZZTIME ?= 1m
fuzz:
	grep -rE '^func Fuzz' --include=*_test.go . | sed -E 's|(.*)/[^/]+:func (Fuzz[A-Za-z]+).*|\1 \2|' | while read package name; do \
		CGO_ENABLED=0 go test $(TAGS) -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) $$package || exit 1; done

bench: build tools
	cd integration && go run ./bench

lint: $(LINT)
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	go vet $(TAGS) ./...
	GOARCH=arm64 go vet $(TAGS) ./...
	$(LINT) run --build-tags no_grpc ./...
	cd integration && go vet ./... && ../$(LINT) run --config ../.golangci.yml ./...
	cd integration/engines && go vet . && ../../$(LINT) run --config ../../.golangci.yml .

$(LINT):
	GOBIN=$(CURDIR)/bin CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/golangci-lint $(LINT)

install: build
	install -D -m 0755 $(SHIM) $(DESTDIR)$(PREFIX)/bin/containerd-shim-myshim-v1

clean:
	rm -rf bin
