$(call proto,cri-server/proto/cri.proto)
$(call library,cri-proto,$(G)/cri-server/proto/cri.pb-c.c)

RPC_PKGS := grpc libprotobuf-c
$(call library,rpc,$(addprefix cri-server/rpc/,status.c message.c answer.c dispatch.c pool.c call.c stream.c \
	server.c client.c))
$(call unit_test,cri-server/rpc/status_test.c,rpc common,$(RPC_PKGS))
$(call unit_test,cri-server/rpc/pool_test.c,rpc common,$(RPC_PKGS))
$(call unit_test,cri-server/rpc/message_test.c,rpc cri-proto common,$(RPC_PKGS))
$(call unit_test,cri-server/rpc/dispatch_test.c,rpc cri-proto common,$(RPC_PKGS))
$(call unit_test,cri-server/rpc/server_test.c,rpc cri-proto common,$(RPC_PKGS))
$(call fuzz_target,cri-server/rpc/message_fuzz.c,rpc cri-proto common,$(RPC_PKGS))
