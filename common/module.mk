$(call proto,common/ttrpc.proto)
COMMON_SOURCES := common/err.c common/log.c common/fd.c common/fd_tree.c common/buf.c common/loop.c common/listener.c \
	common/spawn.c common/threads.c common/userns.c common/fault.c common/proc.c common/ttrpc.c common/ttrpc_server.c common/ttrpc_client.c \
	$(G)/common/ttrpc.pb-c.c
$(call library,common,$(COMMON_SOURCES))
$(call unit_test,common/err_test.c,common,libprotobuf-c)
$(call unit_test,common/log_test.c,common,libprotobuf-c)
$(call unit_test,common/fd_test.c,common,libprotobuf-c)
$(call unit_test,common/buf_test.c,common,libprotobuf-c)
$(call unit_test,common/loop_test.c,common,libprotobuf-c)
$(call unit_test,common/listener_test.c,common,libprotobuf-c)
$(call unit_test,common/spawn_test.c,common,libprotobuf-c)
$(call unit_test,common/threads_test.c,common,libprotobuf-c)
$(call unit_test,common/userns_test.c,common,libprotobuf-c)
$(call library,ttrpc-fixture,common/ttrpc_fixture.c)
$(call unit_test,common/ttrpc_test.c,ttrpc-fixture common,libprotobuf-c)
$(call unit_test,common/ttrpc_server_test.c,ttrpc-fixture common,libprotobuf-c)
$(call unit_test,common/ttrpc_client_test.c,ttrpc-fixture common,libprotobuf-c)
$(call fuzz_target,common/ttrpc_fuzz.c,common,libprotobuf-c)
