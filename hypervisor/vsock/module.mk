# The vhost-user vsock device: one process per VM.
VSOCK := hypervisor/vsock
VSOCK_SOURCES := $(addprefix $(VSOCK)/,memory.c iov.c ring.c hello.c backlog.c connection.c \
	mux.c device.c vhost_user.c)
$(call library,vsock,$(VSOCK_SOURCES))
$(call program,bulkhead-vsock,$(VSOCK),$(VSOCK)/main.c,vsock confine common,libseccomp libcap libprotobuf-c)
$(call library,vsock_testing,$(VSOCK)/testing.c)
VSOCK_TEST_LIBS := vsock_testing vsock common
VSOCK_TEST_PKGS := libprotobuf-c
$(call unit_test,$(VSOCK)/ring_test.c,$(VSOCK_TEST_LIBS),$(VSOCK_TEST_PKGS))
$(call unit_test,$(VSOCK)/connection_test.c,$(VSOCK_TEST_LIBS),$(VSOCK_TEST_PKGS))
$(call unit_test,$(VSOCK)/device_test.c,$(VSOCK_TEST_LIBS),$(VSOCK_TEST_PKGS))
$(call unit_test,$(VSOCK)/vhost_user_test.c,$(VSOCK_TEST_LIBS),$(VSOCK_TEST_PKGS))
$(call fuzz_target,$(VSOCK)/ring_fuzz.c,$(VSOCK_TEST_LIBS),$(VSOCK_TEST_PKGS))
$(call fuzz_target,$(VSOCK)/vhost_user_fuzz.c,$(VSOCK_TEST_LIBS),$(VSOCK_TEST_PKGS))
# For tests/functional/vsock.bats.
$(call guest_program,vsock_echo,tests/functional,tests/functional/guest/vsock_echo.c,)
$(call program,vsock_client,tests/functional,tests/functional/vsock_client.c,common,libprotobuf-c)
