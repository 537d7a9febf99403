# make demo: the main job, in the lab VM.  make test: every test.  Both install what they need (Debian, root).
SHELL := /bin/bash
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
SHIM := build/wirespeed-cni
READY := $(VENV)/ready-$(shell cat requirements.lock | sha256sum | cut -c1-12)
PACKAGES := ca-certificates python3 python3-venv gcc libc6-dev iproute2 iputils-ping kmod procps containernetworking-plugins
# What the node tests run beside: Open vSwitch with DPDK, dpdk-testpmd, mandoc (which checks the man pages), Chromium
# (which shows the web page) with a font, Prometheus with promtool (which scrape and check the metrics), strace (which
# counts what a call costs), and (unless another package has brought it) containerd.
NODE_PACKAGES := openvswitch-switch-dpdk dpdk-dev mandoc chromium-headless-shell fonts-dejavu-core prometheus strace $(if $(shell command -v containerd),,containerd)
# What builds the container images, for both architectures, and runs arm64's.
IMAGE_PACKAGES := $(if $(shell command -v busybox),,busybox-static) gcc-aarch64-linux-gnu libc6-dev-arm64-cross mmdebstrap qemu-user-static
# A cluster's certificates, and commands on its nodes.
CLUSTER_PACKAGES := openssh-client openssl
TOOLS_LOCK := deploy/images/tools.lock
TOOLS := $(VENV)/tools-$(shell cat $(TOOLS_LOCK) | sha256sum | cut -c1-12)
EAL := build/libwirespeed_eal.so
LAB := $(PY) -m lab
CLUSTER := $(PY) -m cluster run $(CLUSTER_OPTIONS) --images build/test-images

# install PACKAGES, COMMAND: those that are missing, after the command; as one line of a recipe.
define install
missing=$$(for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
if [ -n "$$missing" ]; then \
  $(2) apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove $$missing >/dev/null; \
fi
endef

# pip brings certificates of its own: it shall trust what this machine trusts, a company's proxy included.
export PIP_CERT ?= /etc/ssl/certs/ca-certificates.crt

.PHONY: demo test test-unit test-node test-lab test-images test-cluster test-cluster-vf test-cluster-here \
  bench lint lab-shell lab-image cluster cluster-programs node-packages image-packages cluster-packages eal \
  image manifests version release docs drawings install proto lock clean help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(READY) $(SHIM)  ## the vFW pod with DPDK VFs, then VLANs on kernel VFs, in the lab VM
	$(LAB) run --add $(SHIM) $(DEMO_OPTIONS) -- examples/demo $(DEMO_ARGS)

# What is waited for in one lane is time for another: the VM's tests beside this machine's, the cluster's programs (a
# quarter of an hour of compiling) at a low priority beside both. Packages come first: apt does one thing at a time.
test: node-packages cluster-packages  ## every test
	@$(MAKE) --no-print-directory -j3 LANES=yes lint test-unit test-node test-lab test-cluster-here test-cluster-vf

after = $(if $(filter yes,$(LANES)),$(1))
# in LANE, COMMAND: its lines are told apart from those of other lanes.
in = $(if $(LANES),set -o pipefail; ( $(2) ) 2>&1 | sed -u 's/^/$(1): /',$(2))

test-unit: $(READY)  ## pure tests, seconds
	@$(call in,unit,$(VENV)/bin/pytest tests/unit)

test-node: $(READY) $(SHIM) $(TOOLS) node-packages test-images $(call after,lint test-unit)
test-node:  ## on this kernel: namespaces, agent and shim, containerd, OVS-DPDK
	@$(call in,node,$(VENV)/bin/pytest tests/node)

test-lab: $(READY) $(SHIM)  ## in the lab VM: real PF and VF drivers, vfio, testpmd; one boot
	@$(call in,lab,$(LAB) run --add $(SHIM) --timeout 3600 -- pytest tests/lab)

test-cluster:  ## on a real Kubernetes, with a lab VM as a node
	@$(MAKE) --no-print-directory -j2 LANES=cluster test-cluster-here test-cluster-vf

# What needs no VF runs on two nodes at this machine's speed; the rest, at the same time, on a lab VM.
test-cluster-here: test-images cluster-programs cluster-packages $(call after,test-node)
	@$(call in,cluster here,$(CLUSTER) --vms 0 --here 2 -- $(VENV)/bin/pytest tests/cluster --ignore tests/cluster/vf)

test-cluster-vf: test-images cluster-programs cluster-packages $(call after,test-lab)
	@$(call in,cluster VM,$(CLUSTER) --vms 1 --here 0 -- $(VENV)/bin/pytest tests/cluster/vf)

# Nothing tests the other architecture of the pods' image.
test-images: $(READY) $(TOOLS) image-packages
	$(PY) -m image wirespeed --out build/test-images
	$(PY) -m image wirespeed-testpmd --arch amd64 --out build/test-images

bench: $(READY) $(SHIM) node-packages  ## figures: on this machine, and in the lab VM
	$(PY) -m bench host
	$(PY) -m bench vhost
	$(PY) -m bench deviceplugin
	$(LAB) run --add $(SHIM) --timeout 1200 -- python3 -m bench lab

# MkDocs with every warning as an error (with --quiet it would ignore them); the theme's own warning about MkDocs 2 is
# not about this site.
SITE := NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

lint: $(READY)  ## ruff, mypy --strict, import-linter, the documentation site
	@$(call in,lint,$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports && $(SITE))

lab-shell: $(READY) $(SHIM)  ## a root shell in the lab VM
	$(LAB) shell --add $(SHIM)

lab-image: $(READY)  ## build the lab VM's images now
	$(LAB) build

cluster: $(READY) $(SHIM) $(TOOLS) image-packages cluster-packages  ## a shell with kubectl, and nodes that have VFs
	$(PY) -m cluster shell $(CLUSTER_OPTIONS)

cluster-programs: $(READY)  ## build the cluster's programs now
	$(if $(LANES),nice -n 19) $(PY) -m cluster programs $(CLUSTER_OPTIONS)

$(READY): requirements.lock
	@command -v apt-get >/dev/null || { echo "expected Debian: there is no apt-get" >&2; exit 1; }
	@$(call install,$(PACKAGES))
	rm -rf $(VENV) && python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	touch $@

# Installing them must not start them here: policy-rc.d says so to packages' scripts, where nobody says it yet.
define start_nothing
policy=/usr/sbin/policy-rc.d; \
if [ ! -e $$policy ]; then \
  trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' > $$policy; chmod 755 $$policy; \
fi;
endef

node-packages: image-packages | $(READY)
	@$(call install,$(NODE_PACKAGES),$(start_nothing))

eal: $(EAL)  ## the EAL library for C, build/libwirespeed_eal.so

$(EAL): eal/wirespeed_eal/c/wirespeed_eal.c eal/wirespeed_eal/c/wirespeed_eal.h | $(READY)
	mkdir -p build
	gcc -std=c11 -O2 -Wall -Wextra -Werror -shared -fPIC -o $@ $<

$(SHIM): shim/wirespeed-cni.c | $(READY)
	mkdir -p build
	gcc -std=c11 -O2 -static -Wall -Wextra -Werror -o $@ $<

# uv, which installs for other architectures than this machine's, and writes the lock files.
$(TOOLS): $(TOOLS_LOCK) $(READY)
	$(VENV)/bin/pip install --quiet --require-hashes -r $(TOOLS_LOCK)
	touch $@

image-packages: | $(READY)
	@$(call install,$(IMAGE_PACKAGES))

cluster-packages: | $(READY)
	@$(call install,$(CLUSTER_PACKAGES))

image: $(READY) $(TOOLS) image-packages  ## the container images, as OCI archives in build/images (IMAGE_OPTIONS: python3 -m image --help)
	$(PY) -m image $(IMAGE_OPTIONS)

manifests: $(READY)  ## the plain manifests in deploy/, from deploy/chart (helm of PATH, or HELM=path)
	$(PY) -m deploy.manifests

version: $(READY)  ## write VERSION=X.Y.Z to every file that has the version; without VERSION, show it
	$(PY) -m release.version $(VERSION)

release: $(READY) $(TOOLS) image-packages  ## the files of a release, in build/release (helm of PATH, or HELM=path)
	$(PY) -m release

docs: $(READY)  ## the documentation site, in build/site; commands, keys, checks and man pages are written first
	$(PY) -m docsite.commands
	$(PY) -m docsite.keys
	$(PY) -m docsite.doctor
	$(PY) -m docsite.man
	$(SITE)

drawings: $(READY)  ## the SVGs of docs/drawings whose text has changed
	@$(call install,fonts-dejavu-core graphviz plantuml)
	$(PY) -m docsite.drawings

install: $(READY) $(SHIM)  ## this node: the shim and a configuration (INSTALL_OPTIONS: wirespeed install --help)
	$(VENV)/bin/wirespeed install $(INSTALL_OPTIONS)

proto: $(READY)  ## the messages of the kubelet and of runtimes from their .proto files
	$(PY) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. wirespeed/kube/proto/*.proto

# What pyproject.toml calls extras, without dev, which has them all.
EXTRAS := metrics ovs play provision vpp
LOCKED := uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11

lock: $(TOOLS)  ## requirements.lock from pyproject.toml, and of it what the image has; the version of uv
	$(VENV)/bin/$(LOCKED) --extra dev pyproject.toml -o requirements.lock
	$(VENV)/bin/$(LOCKED) -c requirements.lock $(EXTRAS:%=--extra %) pyproject.toml -o deploy/images/requirements.lock
	echo uv | $(VENV)/bin/$(LOCKED) - -o $(TOOLS_LOCK)

clean:  ## what was made in this folder
	rm -rf $(VENV) build out *.egg-info eal/build eal/*.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
