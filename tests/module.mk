# The tests' own tests are part of `make unit`; `make lint` is all that reads the sources without running
# them.
TESTS += tests/run-unit-test tests/check-layers-test tests/install-deps-test

# Packages whose headers lie in directories of their own.
LINT_PKGS := libnl-3.0 libxml-2.0

.PHONY: lint lint-flags
lint:
	$(Q)tests/lint
# For tests/lint: with these flags each source and what is generated for it can be read.
lint-flags: $(GENERATED)
	@echo -std=c11 $(CPPFLAGS) $(shell pkg-config --cflags $(LINT_PKGS))

$(B)/tests/bench/wiring.o: CPPFLAGS += -I/usr/include/libnl3
$(call program,bulkhead-bench,tests/bench,$(addprefix tests/bench/,bench.c container.c cri.c disk.c exec.c frame.c network.c process.c pull.c raw.c records.c results.c wiring.c),\
	network cli rpc cri-proto common,grpc $(NETWORK_PKGS) libprotobuf-c)
# In containers, of both.
$(call guest_program,disk_load,tests/bench,tests/bench/guest/disk_load.c,)
$(call program,fill_images,tests/bench,tests/bench/fill_images.c,store cri-proto common,sqlite3 libprotobuf-c)
$(call program,fill_pods,tests/bench,tests/bench/fill_pods.c,store agent-client cri-proto common,\
	sqlite3 libprotobuf-c)
# For tests/functional/image-crash.bats.
$(call program,image_check,tests/functional,tests/functional/image_check.c,store common,\
	sqlite3 libcrypto libprotobuf-c)
# For tests/functional/errors.bats and rpc.bats.
$(call program,raw_call,tests/functional,tests/functional/raw_call.c,rpc cri-proto common,\
	grpc libprotobuf-c)
# For tests/functional/security.bats.
$(call program,openers,tests/functional,tests/functional/openers.c,common,libprotobuf-c)
# For tests/functional/clock.bats.
$(B)/tests/functional/clock_shift.so: tests/functional/clock_shift.c
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) -std=c11 -O2 $(WARNINGS) -fPIC -shared -o $@ $<
PROGRAMS += $(B)/tests/functional/clock_shift.so
# For tests/functional/streaming.bats.
$(call program,exec_load,tests/functional,tests/functional/exec_load.c cri-server/cli/session.c cri-server/cli/detach.c cri-server/cli/terminal.c \
	cri-server/cli/upgrade.c cri-server/cli/link.c,rpc cri-proto common,grpc libssl libcrypto jansson libprotobuf-c -lwslay)
# For tests/functional/kubelet.bats.
$(call program,kubelet,tests/kubelet,$(addprefix tests/kubelet/,collect.c events.c main.c many.c node.c pleg.c pod.c \
	restarts.c sandboxes.c soak.c upkeep.c worker.c) \
	tests/bench/process.c tests/bench/results.c,cli rpc cri-proto common,grpc jansson libprotobuf-c)
# For tests/functional/security.bats.
$(call guest_program,reach,tests/functional,tests/functional/guest/reach.c,)
# For tests/functional/bulkheadctl.bats and streaming.bats.
$(call guest_program,tcp_echo,tests/functional,tests/functional/guest/tcp_echo.c,)
# For tests/functional/network.bats.
$(call guest_program,frames,tests/functional,tests/functional/guest/frames.c,)
$(call guest_program,sctp,tests/functional,tests/functional/guest/sctp.c,)
# For `make bench` and network.bats.
$(call guest_program,net_load,tests/functional,tests/functional/guest/net_load.c,)
# For tests/functional/volumes.bats, mounted into its containers.
$(call guest_program,volume_client,tests/functional,tests/functional/guest/volume_client.c,)
# For tests/functional/layers.bats: random images, and their trees as text.
$(call program,layer-generate,tests/layers,tests/layers/generate.c,common,libarchive)
$(call program,layer-overlay,tests/layers,tests/layers/overlay.c tests/layers/list.c,agent-container common,)
$(call guest_program,layer-list,tests/layers,tests/layers/list_main.c tests/layers/list.c,)
# The program of an image of critest.
$(call guest_program,effective_uid,tests/conformance,tests/conformance/effective_uid.c,)

# critest against Debian's containerd and runc, for docs/conformance.md.
.PHONY: conformance-baseline
conformance-baseline: programs
	$(Q)RUNTIME=containerd tests/run-conformance

# 1,000 pods, which takes hours where programs are emulated: CYCLES=100 make soak. With PODS=30 as many at once first.
.PHONY: soak
soak:
	$(Q)packaging/install-deps --test
	$(Q)$(MAKE) -j$(JOBS) programs initramfs
	$(Q)$(MAKE) kernel
	$(Q)tests/bench/soak $(or $(CYCLES),1000) $(PODS)
