HYPERVISOR_SOURCES := hypervisor/hv.c hypervisor/driver.c hypervisor/vm.c hypervisor/vm_end.c hypervisor/cost.c \
	hypervisor/domain_xml.c hypervisor/domain_read.c hypervisor/grow.c hypervisor/link.c hypervisor/monitor.c hypervisor/cgroup.c hypervisor/vm_cgroup.c hypervisor/share.c hypervisor/console.c hypervisor/helper.c hypervisor/transport.c \
	hypervisor/accel.c hypervisor/accel_guest.c hypervisor/tsc.c hypervisor/user.c hypervisor/vm_user.c
HYPERVISOR_PKGS := libvirt libxml-2.0 libprotobuf-c
$(call library,hypervisor,$(HYPERVISOR_SOURCES))
# For the helpers, which are programs of their own.
$(call library,confine,hypervisor/confine.c)
# Beside bulkhead-vsock: one setting names the directory of both.
$(call program,bulkhead-console,hypervisor/vsock,hypervisor/console_main.c,confine common,libseccomp libcap libprotobuf-c)
$(call unit_test,hypervisor/domain_xml_test.c,hypervisor common,$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/cgroup_test.c,hypervisor common,$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/vm_cgroup_test.c,hypervisor common,$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/vm_user_test.c,hypervisor common,$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/accel_test.c,hypervisor common,$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/cost_test.c,hypervisor common,$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/tsc_test.c,hypervisor common,$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/helper_test.c,hypervisor common,$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/transport_test.c,hypervisor common,$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/libvirtd_test.c,hypervisor common,$(HYPERVISOR_PKGS))
# A guest of virtiofs; its memory and rings are those of the vsock device's tests.
$(call library,share_testing,hypervisor/share_driver.c hypervisor/share_world.c)
SHARE_TEST_LIBS := share_testing vsock_testing vsock hypervisor common
$(call unit_test,hypervisor/share_hostile_test.c,$(SHARE_TEST_LIBS),$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/share_forged_test.c,$(SHARE_TEST_LIBS),$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/share_malformed_test.c,$(SHARE_TEST_LIBS),$(HYPERVISOR_PKGS))
$(call unit_test,hypervisor/vm_test.c,hypervisor common,$(HYPERVISOR_PKGS))
# libxml2's headers lie in a directory of their own.
$(B)/hypervisor/domain_xml.o $(B)/hypervisor/domain_read.o $(B)/hypervisor/domain_xml_test.o: \
	private CPPFLAGS += $(shell pkg-config --cflags libxml-2.0)
# These run the program.
$(B)/hypervisor/helper_test $(B)/hypervisor/vm_test: | $(B)/hypervisor/vsock/bulkhead-console
$(B)/hypervisor/helper_test $(B)/hypervisor/vm_test: | $(B)/hypervisor/vsock/bulkhead-vsock
