$(call proto,cri-server/proto/cri.proto)
$(call library,cri-proto,$(G)/cri-server/proto/cri.pb-c.c)
