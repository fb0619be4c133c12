# libnl keeps its headers in a directory of its own.
$(B)/network/%.o: CPPFLAGS += -I/usr/include/libnl3

NETWORK_PKGS := libnl-route-3.0 libnl-3.0 jansson
NETWORK_TEST_LIBS := network_testing network common
$(call library,network,network/pod_network.c network/tap.c network/cni.c network/cni_config.c \
	network/cni_result.c network/attachment.c network/capability.c network/netns.c network/interface.c \
	network/interface_change.c network/netlink.c network/redirect.c network/tcfilter.c network/macvtap.c network/antispoof.c \
	network/antispoof_program.c network/offloads.c network/watch.c network/orphans.c network/versions.c)
$(call library,network_testing,network/testing.c)
$(call unit_test,network/cni_test.c,$(NETWORK_TEST_LIBS),$(NETWORK_PKGS))
$(call unit_test,network/plugin_test.c,$(NETWORK_TEST_LIBS),$(NETWORK_PKGS))
$(call unit_test,network/antispoof_test.c,$(NETWORK_TEST_LIBS),$(NETWORK_PKGS))
$(call unit_test,network/offloads_test.c,$(NETWORK_TEST_LIBS),$(NETWORK_PKGS))
$(call unit_test,network/watch_test.c,$(NETWORK_TEST_LIBS),$(NETWORK_PKGS))
$(call unit_test,network/orphans_test.c,network common,$(NETWORK_PKGS))
$(call unit_test,network/redirect_test.c,$(NETWORK_TEST_LIBS),$(NETWORK_PKGS))
$(call unit_test,network/pod_network_test.c,$(NETWORK_TEST_LIBS),$(NETWORK_PKGS))
$(call fuzz_target,network/cni_fuzz.c,network common,$(NETWORK_PKGS))
