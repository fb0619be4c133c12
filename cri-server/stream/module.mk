STREAM_SOURCES := $(addprefix cri-server/stream/,server.c tokens.c handshake.c session.c remote.c forward.c pump.c peer.c \
	wire.c websocket.c spdy.c spdy_headers.c spdy_dictionary.c status_json.c)
$(call library,stream,$(STREAM_SOURCES))
STREAM_LIBS := stream agent-client common
# wslay has no .pc file.
STREAM_PKGS := libmicrohttpd zlib jansson libcrypto libprotobuf-c -lwslay
