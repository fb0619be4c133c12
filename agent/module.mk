# The agent: PID 1 of the guest, static; and the host's side of it, a library.
#
# AGENT_SOURCES is all of the guest's side but main(): the unit tests drive it on the host.

$(call proto,agent/proto/agent.proto)

AGENT_PKGS := libprotobuf-c libcap

# What runs containers. A library of its own: its tests bring a disk_wait() for loop devices.
AGENT_CONTAINER_SOURCES := agent/container.c agent/container_exec.c agent/container_host.c \
	agent/clone.c agent/launch.c agent/program.c agent/rootfs.c agent/implied.c agent/mounts.c \
	agent/volumes.c agent/volume_write.c \
	agent/devices.c agent/mount_fs.c agent/root_path.c agent/cgroup.c \
	agent/cgroup_devices.c agent/usage.c agent/usage_process.c agent/quota.c agent/user.c \
	agent/security.c agent/ids.c agent/rtnetlink.c
AGENT_SOURCES := agent/process.c agent/stdio.c agent/stdio_child.c agent/input.c agent/output.c \
	agent/key.c agent/stream.c agent/netconf.c agent/sysctl.c agent/disk.c agent/machine.c \
	agent/events.c agent/registry.c agent/server.c agent/methods.c agent/stats.c agent/grow.c agent/volume_methods.c \
	$(AGENT_CONTAINER_SOURCES) $(G)/agent/proto/agent.pb-c.c

# Forwarded ports.
AGENT_SOURCES += agent/forward.c

$(call guest_program,bulkhead-agent,agent,agent/init.c $(AGENT_SOURCES) $(COMMON_SOURCES),$(AGENT_PKGS))
$(call library,agent,$(AGENT_SOURCES))
$(call library,agent-client,agent/client/client.c agent/client/stream.c agent/client/check.c agent/client/clock.c \
	$(G)/agent/proto/agent.pb-c.c)

# The root file system's tests need neither the server nor real disks.
$(call library,agent-container,$(AGENT_CONTAINER_SOURCES) agent/process.c agent/stdio_child.c \
	$(G)/agent/proto/agent.pb-c.c)
AGENT_CONTAINER_LIBS := agent-container common
$(call library,agent-container-fixture,agent/container_fixture.c)
$(call unit_test,agent/container_test.c,agent-container-fixture $(AGENT_CONTAINER_LIBS),\
	libprotobuf-c libcap)
$(call unit_test,agent/user_test.c,$(AGENT_CONTAINER_LIBS),libprotobuf-c)
$(call unit_test,agent/security_test.c,$(AGENT_CONTAINER_LIBS),libprotobuf-c libcap)
$(call unit_test,agent/usage_test.c,$(AGENT_CONTAINER_LIBS),libprotobuf-c)
$(call unit_test,agent/rootfs_test.c,$(AGENT_CONTAINER_LIBS),libprotobuf-c)
$(call unit_test,agent/volume_write_test.c,$(AGENT_CONTAINER_LIBS),libprotobuf-c)
$(call fuzz_target,agent/user_fuzz.c,$(AGENT_CONTAINER_LIBS),libprotobuf-c)

# With a real machine; skips without BULKHEAD_KERNEL and BULKHEAD_INITRAMFS.
$(call library,agent-vm-fixture,agent/vm_fixture.c)
$(call unit_test,agent/agent_vm_test.c,agent-vm-fixture agent-client common,libprotobuf-c)
$(B)/agent/agent_vm_test: | $(B)/hypervisor/vsock/bulkhead-vsock

AGENT_TEST_LIBS := agent common
$(call unit_test,agent/stdio_test.c,$(AGENT_TEST_LIBS),$(AGENT_PKGS))
$(call unit_test,agent/netconf_test.c,$(AGENT_TEST_LIBS),$(AGENT_PKGS))
$(call library,agent-test-server,agent/test_server.c)
$(call unit_test,agent/server_test.c,agent-test-server agent-client $(AGENT_TEST_LIBS),$(AGENT_PKGS))
$(call unit_test,agent/volume_methods_test.c,agent-test-server agent-client $(AGENT_TEST_LIBS),$(AGENT_PKGS))
$(call unit_test,agent/forward_test.c,agent-test-server agent-client $(AGENT_TEST_LIBS),$(AGENT_PKGS))
$(call unit_test,agent/client/client_test.c,agent-test-server agent-client $(AGENT_TEST_LIBS),$(AGENT_PKGS))
$(call fuzz_target,agent/client/check_fuzz.c,agent-client common,libprotobuf-c)
