STREAM_SOURCES := $(addprefix cri-server/stream/,server.c tokens.c handshake.c session.c remote.c forward.c pump.c peer.c \
	wire.c tls.c websocket.c terminal_size.c spdy.c spdy_receive.c spdy_headers.c spdy_dictionary.c status_json.c)
$(call library,stream,$(STREAM_SOURCES))
STREAM_LIBS := stream agent-client common
# wslay has no .pc file.
STREAM_PKGS := libmicrohttpd libssl zlib jansson libcrypto libprotobuf-c -lwslay

$(call unit_test,cri-server/stream/spdy_test.c,$(STREAM_LIBS),zlib)
$(call unit_test,cri-server/stream/spdy_client_test.c,$(STREAM_LIBS),zlib)
$(call unit_test,cri-server/stream/tokens_test.c,$(STREAM_LIBS),libcrypto)
$(call unit_test,cri-server/stream/websocket_test.c,$(STREAM_LIBS),libcrypto -lwslay)
$(call fuzz_target,cri-server/stream/spdy_fuzz.c,$(STREAM_LIBS),zlib)
$(call fuzz_target,cri-server/stream/websocket_fuzz.c,$(STREAM_LIBS),libcrypto -lwslay)
$(call fuzz_target,cri-server/stream/request_fuzz.c,$(STREAM_LIBS),libcrypto jansson -lwslay)
$(call library,stream-fixture,cri-server/stream/server_fixture.c)
$(foreach t,server server_forward server_hostile server_protocols tls,$(call unit_test,cri-server/stream/$(t)_test.c,stream-fixture $(STREAM_LIBS),$(STREAM_PKGS)))
