STREAM_SOURCES := $(addprefix cri-server/stream/,server.c tokens.c handshake.c session.c remote.c forward.c pump.c peer.c \
	wire.c websocket.c spdy.c spdy_headers.c spdy_dictionary.c status_json.c)
$(call library,stream,$(STREAM_SOURCES))
STREAM_LIBS := stream agent-client common
# wslay has no .pc file.
STREAM_PKGS := libmicrohttpd zlib jansson libcrypto libprotobuf-c -lwslay

$(call unit_test,cri-server/stream/spdy_test.c,$(STREAM_LIBS),zlib)
$(call unit_test,cri-server/stream/spdy_client_test.c,$(STREAM_LIBS),zlib)
$(call unit_test,cri-server/stream/websocket_test.c,$(STREAM_LIBS),libcrypto -lwslay)
$(call fuzz_target,cri-server/stream/spdy_fuzz.c,$(STREAM_LIBS),zlib)
$(call fuzz_target,cri-server/stream/websocket_fuzz.c,$(STREAM_LIBS),libcrypto -lwslay)
$(call unit_test,cri-server/stream/server_test.c,$(STREAM_LIBS),$(STREAM_PKGS))
